"""How a model is decoded: settings that travel with the model as `lorajob.json`.

    MODEL/model.bin  config.json  ...   what faster-whisper reads
    MODEL/lorajob.json                  {"format": 1, "decoding": {...}}

The settings follow from the job's spec and from its training clips. So every tool of lorajob
decodes a model as it was scored, and nothing of a test set decides a transcript.
"""

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from lorajob.errors import ModelError
from lorajob.job.jobdir import write_json
from lorajob.languages import find_language
from lorajob.spec import MAX_LABEL_TOKENS, JobSpec
from lorajob.whisper.tokens import USUAL_TOKENS

FILE = "lorajob.json"
FORMAT = 1
MARGIN = 1.5  # limits of tokens are so many times what the training clips need
SPARE_TOKENS = 8  # added to each limit, for clips of a word or two
PERCENTILE = 99.0
# The percentile of few clips is their maximum. A clip with a wrong text must not set the limit.
MOST_MEDIANS = 3.0
# Rate of a model whose training clips are unknown. A fast reader of a script with two or three
# tokens a letter needs about so many.
USUAL_RATE = 40.0

_FROZEN = ConfigDict(frozen=True, extra="ignore")


class TokenLimits(BaseModel):
    """The most tokens that a transcript may have, learned from training clips.

    A model that repeats itself generates until its limit.
    """

    model_config = _FROZEN

    tokens_a_second: PositiveFloat = USUAL_RATE
    tokens: PositiveInt = USUAL_TOKENS
    """In all, for audio of up to `seconds`."""
    seconds: NonNegativeFloat = 30.0

    def of(self, seconds: float) -> int:
        """The limit for audio of this length."""
        limit = math.ceil(self.tokens_a_second * seconds) + SPARE_TOKENS
        if seconds <= self.seconds:
            limit = min(limit, self.tokens)
        return min(limit, MAX_LABEL_TOKENS)


class TextWeights(BaseModel):
    """How a model of text chooses among the hypotheses of a beam search (`text_choice.py`)."""

    model_config = _FROZEN

    weight: PositiveFloat
    """Of the log-probability by the text."""
    gain: NonNegativeFloat
    """Nats that each character adds to the score."""
    beam_size: PositiveInt
    """Hypotheses of a window: at least so many beams are searched."""
    sha256: str
    """Of the file of the model of text."""


class DecodeConfig(BaseModel):
    """How a model is decoded. The thresholds and temperatures are those of openai/whisper."""

    model_config = _FROZEN

    language: str
    """Whisper language code."""
    cut: bool = False
    """Windows end half a second behind the audio. Otherwise they are padded to 30 s."""
    beam_size: PositiveInt = 1
    limits: TokenLimits = TokenLimits()
    compression_ratio: float | None = 2.4
    """A transcript that compresses better than this repeats itself; it is decoded again."""
    log_probability: float | None = -1.0
    """A transcript with a lower mean log-probability of a token is decoded again."""
    no_speech: float | None = 0.6
    """Audio with a higher probability of no speech, and a transcript of low probability, has no
    text."""
    temperatures: tuple[NonNegativeFloat, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Of the first pass and of the passes that follow it."""
    best_of: PositiveInt = 5
    """Transcripts that are sampled at each temperature above 0."""
    seed: int = 0
    """Of the sampling."""
    text: TextWeights | None = None
    """Null: no model of text chooses."""


def token_limits(tokens: ArrayLike, seconds: ArrayLike) -> TokenLimits:
    """The limits that follow from training clips: their numbers of tokens, their lengths.

    Both are a high percentile with a margin, at most a multiple of the median. Few clips with a
    wrong text or length do not change them.
    """
    counts, lengths = np.asarray(tokens, np.float64), np.asarray(seconds, np.float64)
    if not len(counts):
        return TokenLimits()
    most = math.ceil(MARGIN * _robust(counts)) + SPARE_TOKENS
    return TokenLimits(
        tokens_a_second=round(MARGIN * _robust(counts / lengths), 3),
        tokens=min(MAX_LABEL_TOKENS, most),
        seconds=round(float(np.percentile(lengths, PERCENTILE)), 2),
    )


def _robust(values: NDArray[np.float64]) -> float:
    return float(min(np.percentile(values, PERCENTILE), MOST_MEDIANS * np.median(values)))


def usual_config(spec: JobSpec) -> DecodeConfig:
    """The settings of a job's model that has no `lorajob.json`, because it is older."""
    language = find_language(spec.language).token
    return DecodeConfig(language=language, cut=spec.decodes_cut, seed=spec.seed)


def write_config(model: Path, config: DecodeConfig) -> None:
    """Write `model`/lorajob.json."""
    write_json(model / FILE, {"format": FORMAT, "decoding": config.model_dump(mode="json")})


def read_config(model: Path) -> DecodeConfig | None:
    """The settings that travel with a model; None for a model that is older than them.

    Raises ModelError if the file is damaged or of a newer format.
    """
    path = model / FILE
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["format"] > FORMAT:
            raise ModelError(f"{path}: written by a newer lorajob; update lorajob")
        return DecodeConfig.model_validate(values["decoding"])
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        raise ModelError(f"{path}: damaged; copy it again from the job's folder") from None
