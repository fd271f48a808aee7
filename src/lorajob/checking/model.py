"""The findings and statistics of a check. `--json` prints a CheckReport."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 1
Level = Literal["error", "warning"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Example(_Model):
    """A clip, with details of the finding."""

    id: str
    split: str
    text: str
    seconds: float | None
    """None: it was not decoded."""
    detail: str


class CorpusFinding(_Model):
    """A fault that some clips have."""

    name: str
    """A stable name, such as `narrow-band`."""
    level: Level
    says: str
    count: int
    """Of clips; for `same-speaker` and `same-sentence` of test clips."""
    advice: str
    fixed: bool
    """Whether `--fix` leaves these clips out."""
    examples: tuple[Example, ...]


class SplitStatistics(_Model):
    """Counts of one split, or of all. Dropped clips are in `clips` and `dropped` only."""

    clips: int
    dropped: int
    hours: float
    speakers: int
    words: int
    """Characters, in a language without spaces between words."""
    vocabulary: int
    """Different words."""
    sentences: int
    """Different sentences."""


class Bins(_Model):
    """Counts of clips. Bin n holds values from `start` + n `width`; the last also larger ones."""

    unit: str
    start: float
    width: float
    counts: tuple[int, ...]


class CheckReport(_Model):
    """The result of a check."""

    format: int = FORMAT
    corpus: str
    language: str
    quick: bool
    """Only headers were read: nothing is known about the sound but its length."""
    test_by: str
    """How test clips were chosen: by the corpus's `split`, by `speaker` or `sentence`; "" if no
    clip could be chosen."""
    errors: int
    warnings: int
    findings: tuple[CorpusFinding, ...]
    splits: dict[str, SplitStatistics]
    total: SplitStatistics
    medians: dict[str, float]
    """Of seconds, characters a second, tokens a character and signal-to-noise ratio in dB."""
    histograms: dict[str, Bins]
    unused: dict[str, int]
    """Rows that the job would not use, by the reason."""
    notes: tuple[str, ...]
    """What could not be checked."""
