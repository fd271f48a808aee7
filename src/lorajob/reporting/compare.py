"""Compares two models on the same clips: relative change of the error rate, with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorajob.reporting.words import Counts

SAMPLES = 2000
FEW_CLIPS = 30  # under so many clips a figure says little
LEAST_SPEAKERS = 3  # to draw speakers instead of clips


@dataclass(frozen=True)
class Change:
    """How much fewer errors `after` has than `before`, in percent of the errors before.

    `low` and `high` bound the 95 % interval. A negative number means more errors.
    """

    fewer: float
    low: float
    high: float
    clips: int

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval is not None and (self.low > 0 or self.high < 0)

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high); None for a single clip, whose bounds have no width."""
        return (self.low, self.high) if self.clips > 1 else None


def compare_counts(
    before: Sequence[Counts], after: Sequence[Counts], speakers: Sequence[str], seed: int
) -> Change | None:
    """The change between paired results on the same clips; None if `before` has no errors.

    The interval is a paired bootstrap (Bisani and Ney, ICASSP 2004). If LEAST_SPEAKERS or more
    speakers are known for all clips, speakers are drawn, because the clips of one speaker are not
    independent. Otherwise clips are drawn.
    """
    errors = np.array([[one.errors, two.errors] for one, two in zip(before, after, strict=True)])
    if not len(errors) or not errors[:, 0].sum():
        return None
    groups = _groups(errors, speakers)
    random = np.random.default_rng(seed)
    drawn = random.integers(len(groups), size=(SAMPLES, len(groups)))
    sums = groups[drawn].sum(axis=1)
    sums = sums[sums[:, 0] > 0]
    low, high = np.percentile(100 * (1 - sums[:, 1] / sums[:, 0]), [2.5, 97.5])
    total = errors.sum(axis=0)
    return Change(float(100 * (1 - total[1] / total[0])), float(low), float(high), len(errors))


def _groups(errors: NDArray[np.int64], speakers: Sequence[str]) -> NDArray[np.int64]:
    """The errors of each unit of the bootstrap: a speaker or a clip."""
    names = sorted(set(speakers))
    if len(names) < LEAST_SPEAKERS or "" in names:
        return errors
    places = {name: place for place, name in enumerate(names)}
    summed = np.zeros((len(names), 2), dtype=np.int64)
    np.add.at(summed, [places[speaker] for speaker in speakers], errors)
    return summed


def verdict(change: Change, unit: str) -> str:
    """A sentence for the change. `unit` is `word` or `character`."""
    count = f"{change.clips} clip{'s' if change.clips != 1 else ''}"
    kind, low, high = "fewer", change.low, change.high
    if change.fewer < 0:
        kind, low, high = "more", -change.high, -change.low
    around = "" if change.interval is None else f"; 95 % interval {low:.0f} to {high:.0f} %"
    text = f"{abs(change.fewer):.0f} % {kind} {unit} errors ({count}{around})."
    if not change.certain:
        text += " The difference may be chance."
    if change.clips < FEW_CLIPS:
        verb = "is" if change.clips == 1 else "are"
        text += f" {count} {verb} few: test on {FEW_CLIPS} or more before you decide."
    return text
