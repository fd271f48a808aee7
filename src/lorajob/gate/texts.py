"""Guards that need only the transcripts of the test clips."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorajob.job.results import Guard, Metric
from lorajob.languages import find_language
from lorajob.speech.gap import REPEATS, compression_ratio
from lorajob.speech.scoring import difference, rate_of_set
from lorajob.speech.text import normalise

FEWEST_CLIPS = 8  # with fewer, the comparison with other clips is chance
OTHER_CLIPS = 3  # whose references each transcript is compared with
OVER_REFERENCE = 1.25  # a loop's compression ratio, divided by that of its reference
ROUNDING = 1e-9  # a figure equal to its limit may differ by so much, as 50 - 40 % of 60 words does


@dataclass(frozen=True)
class Transcripts:
    """The test clips that the delivered model was decoded on, by faster-whisper."""

    references: list[str]
    base: list[str]  # of the first of them
    delivered: list[str]
    language: str

    def __len__(self) -> int:
        return len(self.references)

    def scored(self, count: int) -> int:
        """How many of the first `count` clips have words in their reference."""
        return count_worded(self.references[:count], self.language)


def count_worded(references: Sequence[str], language: str) -> int:
    """How many references have words. Rates leave the others out."""
    return sum(bool(normalise(it, language)) for it in references)


def is_over(value: float, limit: float) -> bool:
    """Whether a figure is over its limit. An equal one is not."""
    return value > limit + ROUNDING


def check_rate(clips: Transcripts, limit: float) -> Guard:
    """The error rate against that of the base model."""
    metric = find_language(clips.language).primary_metric
    both = len(clips.base)
    scored = clips.scored(both)
    if not scored:
        return not_checked("wer", "no clip with words in its reference was decoded with the base")
    before, after = (
        rate_of_set(clips.references[:both], texts[:both], metric, clips.language)
        for texts in (clips.base, clips.delivered)
    )
    return Guard(
        name="wer",
        state="failed" if is_over(after - before, limit) else "passed",
        reason=f"{metric.upper()} {after:.1f} % on {scored} clips, base {before:.1f} %; "
        f"at most {limit:g} points more are allowed",
        value=after,
        base=before,
        limit=limit,
        unit="%",
    )


def check_own_clips(clips: Transcripts, limit: float) -> Guard:
    """Whether transcripts fit their own clips better than other clips.

    If a model was trained on the texts of other clips, its transcripts do not fit the sound. It may
    still have a lower error rate than its base.
    """
    scored = clips.scored(len(clips))
    if scored < FEWEST_CLIPS:
        return not_checked(
            "own_clips", f"{scored} clips with words in their reference, {FEWEST_CLIPS} are needed"
        )
    own = rate_of_set(clips.references, clips.delivered, "cer", clips.language)
    moved = [_moved(clips.references, step) for step in range(1, OTHER_CLIPS + 1)]
    rates = [rate_of_set(other, clips.delivered, "cer", clips.language) for other in moved]
    others = sum(rates) / len(rates)
    return Guard(
        name="own_clips",
        state="failed" if is_over(limit, others - own) else "passed",
        reason=f"CER of the transcripts {own:.1f} % against their own clips, {others:.1f} % "
        f"against other clips; at least {limit:g} points less are needed",
        value=others - own,
        limit=limit,
        unit="points",
    )


def check_loops(clips: Transcripts, limit: float) -> Guard:
    """Transcripts that repeat themselves more than their references do."""
    if not len(clips):
        return not_checked("loops", "no clip was decoded")
    loops, before = (
        sum(is_loop(said, heard) for said, heard in zip(clips.references, texts, strict=False))
        for texts in (clips.delivered, clips.base)
    )
    allowed = max(1, int(limit * len(clips) + ROUNDING))
    of_base = f"{before}" if len(clips.base) == len(clips) else f"{before} of {len(clips.base)}"
    return Guard(
        name="loops",
        state="failed" if loops > allowed else "passed",
        reason=f"{loops} of {len(clips)} transcripts repeat themselves, base {of_base}; "
        f"at most {allowed} may",
        value=loops,
        base=before,
        limit=allowed,
        unit="clips",
    )


@dataclass(frozen=True)
class Rise:
    """By how many points an error rate is higher than another on the same clips.

    `interval` is the 95 % interval of the paired difference.
    """

    points: float
    interval: tuple[float, float]

    @classmethod
    def of(
        cls,
        references: list[str],
        before: list[str],
        after: list[str],
        metric: Metric,
        language: str = "",
    ) -> "Rise":
        """The rise from the transcripts `before` to those `after`."""
        fewer = difference(references, before, after, metric, language=language)
        low, high = fewer.interval
        return cls(0.0 - fewer.points, (0.0 - high, 0.0 - low))

    def over(self, limit: float) -> bool:
        """Whether the rise is over `limit` by more than chance: its whole interval is.

        On 15 sentences, one model in a few would fail or pass by chance otherwise.
        """
        return is_over(self.points, limit) and is_over(self.interval[0], limit)

    def apart(self, limit: float) -> bool:
        """Whether both rates are over `limit` apart by more than chance, in either direction."""
        falls = is_over(-self.points, limit) and is_over(-self.interval[1], limit)
        return self.over(limit) or falls

    def told(self, limit: float) -> str:
        """The limit and the interval, for the reason of a guard."""
        low, high = self.interval
        return (
            f"at most {limit:g} points more are allowed, and the rise is {low:.1f} to {high:.1f} "
            "(95 %)"
        )


def not_checked(name: str, reason: str) -> Guard:
    """A guard that was not checked, and why."""
    return Guard(name=name, state="not_checked", reason=reason)


def _moved(texts: Sequence[str], step: int) -> list[str]:
    return [*texts[step:], *texts[:step]]


def is_loop(reference: str, text: str) -> bool:
    """Whether a transcript repeats itself, and more than its reference does."""
    ratio = compression_ratio(text)
    # Long texts, and scripts with three bytes a letter, compress better.
    return ratio > REPEATS and ratio > OVER_REFERENCE * compression_ratio(reference)
