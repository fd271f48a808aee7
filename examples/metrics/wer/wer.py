"""Word error rate as lorajob counts it, for Hugging Face's `evaluate`.

    metric = evaluate.load("examples/metrics/wer")
    metric.compute(predictions=["..."], references=["..."], language="hi")

`language` is a code or name. With it, texts are compared as in lorajob's figures: NFC, case folded,
without punctuation, vowel signs kept. Without it, they are compared as they stand.
"""

import datasets
import evaluate
import jiwer

from lorajob.languages import find_language
from lorajob.speech.text import normalise

TEXT = datasets.Value("string")


class WordErrors(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """The rate in percent, and jiwer\'s counts of words. An empty reference is left out."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Word error rate, in percent of the references' words.",
            citation="",
            inputs_description="predictions and references: texts; language: code or name",
            features=datasets.Features({"predictions": TEXT, "references": TEXT}),
        )

    def _compute(
        self, predictions: list[str], references: list[str], language: str | None = None
    ) -> dict[str, float]:
        if language is not None:
            code = find_language(language).code
            predictions, references = (
                [normalise(text, code) for text in texts] for texts in (predictions, references)
            )
        pairs = [(said, heard) for said, heard in zip(references, predictions, strict=True) if said]
        if not pairs:
            return {"wer": 0.0, "hits": 0, "substitutions": 0, "deletions": 0, "insertions": 0}
        found = jiwer.process_words([said for said, _ in pairs], [heard for _, heard in pairs])
        return {
            "wer": 100 * found.wer,
            "hits": found.hits,
            "substitutions": found.substitutions,
            "deletions": found.deletions,
            "insertions": found.insertions,
        }
