"""Chooses one of the hypotheses of a beam search by the audio and by a model of text.

A hypothesis has the score

    log-probability by the audio + weight * log-probability by the text + gain * characters

The text's probability falls with every character, so `gain` makes up for the length. A model of
text lies beside the model it was chosen for, as `text_model.safetensors`. Its weights are in
`lorajob.json`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorajob.decoding.config import TextWeights
from lorajob.decoding.text_model import LanguageModel
from lorajob.errors import ModelError
from lorajob.storage.hashes import file_hash
from lorajob.whisper.tokens import Labels

TEXT_FILE = "text_model.safetensors"


@dataclass(frozen=True)
class Hypothesis:
    """A text of a window, and its log-probability given the audio, in nats."""

    text: str
    log_probability: float


@dataclass(frozen=True)
class Hypotheses:
    """The hypotheses of a window, with what decides their scores: float64 of each, in nats."""

    texts: tuple[str, ...]
    by_audio: NDArray[np.float64]
    by_text: NDArray[np.float64]
    characters: NDArray[np.float64]

    def best(self, weight: float, gain: float) -> int:
        """The place of the hypothesis with the highest score; of equals the first."""
        return int(np.argmax(self.by_audio + weight * self.by_text + gain * self.characters))


def weigh(found: Sequence[Hypothesis], model: LanguageModel) -> Hypotheses:
    """The scores of the hypotheses of a window."""
    texts = tuple(it.text for it in found)
    return Hypotheses(
        texts,
        np.array([it.log_probability for it in found]),
        np.array(model.scores(texts)),
        np.array([model.length(it) for it in texts], np.float64),
    )


def hypotheses(labels: Labels, result: Any, limit: int) -> list[Hypothesis]:
    """The hypotheses in CTranslate2's result for a window, with at most `limit` tokens each."""
    return [
        Hypothesis(labels.decode(tokens[:limit]), score * len(tokens))
        for tokens, score in zip(result.sequences_ids, result.scores, strict=True)
    ]


@dataclass(frozen=True)
class TextChoice:
    """A model of text, and its weights."""

    model: LanguageModel
    weights: TextWeights

    def best(self, found: Sequence[Hypothesis]) -> int:
        """The place of the hypothesis that is kept."""
        if len(found) < 2:
            return 0
        return weigh(found, self.model).best(self.weights.weight, self.weights.gain)


def load_choice(folder: Path, weights: TextWeights | None) -> TextChoice | None:
    """The model of text in a model's folder; None without weights for it.

    Raises ModelError if it is missing, damaged, or another one than the weights are for.
    """
    if weights is None:
        return None
    path = folder / TEXT_FILE
    try:
        same = file_hash(path) == weights.sha256
    except OSError as error:
        said = error.strerror or error
        raise ModelError(f"{path}: {said}; copy it again from the job's folder") from None
    # First, because a reader may break in any way on damaged bytes.
    if not same:
        raise ModelError(
            f"{path}: damaged, or not the model of text of lorajob.json; copy the whole folder "
            "again"
        )
    return TextChoice(LanguageModel.load(path), weights)
