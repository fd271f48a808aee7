"""The error rates as metrics of the package evaluate, for trainers and notebooks.

They import evaluate and datasets, and with these torch if it is installed. lorajob's own figures
come from `scoring`, which needs none of them.
"""

from typing import Any

import datasets
import evaluate
import jiwer

from lorajob.languages import find_language
from lorajob.speech.text import normalise

COUNTS = ("hits", "substitutions", "deletions", "insertions")

_FEATURES = datasets.Features(
    {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
)


class WordErrorRate(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """`compute(predictions=, references=, language=)` -> percent and counts of words.

    The keys are "wer" and COUNTS, which are jiwer's. With `language`, a code or name, texts are
    compared as in `score`; without it, as they stand. An empty reference is left out. Downloads
    nothing.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("Word error rate, in percent of the references' words.")

    def _compute(
        self, predictions: list[str], references: list[str], language: str | None = None
    ) -> dict[str, float]:
        pairs = _compared(predictions, references, language)
        found = jiwer.process_words(*pairs) if pairs[0] else None
        return {"wer": 100 * found.wer if found else 0.0} | _counted(found)


class CharacterErrorRate(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """As WordErrorRate, of characters; the rate is "cer"."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Character error rate, in percent of the references' code points.")

    def _compute(
        self, predictions: list[str], references: list[str], language: str | None = None
    ) -> dict[str, float]:
        pairs = _compared(predictions, references, language)
        found = jiwer.process_characters(*pairs) if pairs[0] else None
        return {"cer": 100 * found.cer if found else 0.0} | _counted(found)


def _compared(
    predictions: list[str], references: list[str], language: str | None
) -> tuple[list[str], list[str]]:
    """References and predictions as they are compared, without empty references."""
    if language is not None:
        code = find_language(language).code
        predictions, references = (
            [normalise(text, code) for text in texts] for texts in (predictions, references)
        )
    pairs = [(said, heard) for said, heard in zip(references, predictions, strict=True) if said]
    return [said for said, _ in pairs], [heard for _, heard in pairs]


def _counted(found: Any) -> dict[str, float]:
    return {name: getattr(found, name) if found else 0 for name in COUNTS}


def _info(description: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description, citation="", inputs_description="", features=_FEATURES
    )
