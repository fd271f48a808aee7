"""The guard of the stage `convert`, and the verdict after it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lorajob.gate.texts import Rise, is_loop, not_checked
from lorajob.job.results import Guard, Metric
from lorajob.languages import find_language
from lorajob.spec_gate import GateConfig
from lorajob.speech.scoring import score
from lorajob.speech.text import normalise
from lorajob.whisper.tokens import Labels

CONVERSION = "conversion"
FEWEST_CLIPS = 2  # one clip has no interval
# A type that differs by more fails, whatever the interval. If a few of 16 clips are broken, the
# interval reaches down to no difference.
MOST_POINTS = 10.0


@dataclass(frozen=True)
class Converted:
    """Transcripts of the same clips by the merged model and by each converted type."""

    references: list[str]
    merged: list[str]
    by_type: Mapping[str, list[str]]
    language: str

    @property
    def metric(self) -> Metric:
        return find_language(self.language).primary_metric

    @cached_property
    def rises(self) -> dict[str, Rise]:
        """From the merged model to each type."""
        return {
            kind: Rise.of(self.references, self.merged, texts, self.metric, self.language)
            for kind, texts in self.by_type.items()
        }

    @cached_property
    def clips(self) -> int:
        """How many clips have a reference to compare with."""
        return score(self.references, self.merged, self.language).clips

    def fault(self, kind: str, limit: float) -> str:
        """Why the conversion to a type fails; "" if it does not.

        Small differences fail if the interval says that they are no chance.
        """
        if more := self._more(kind, self._looping):
            words = "transcript repeats itself" if more == 1 else "transcripts repeat themselves"
            return f"{kind}: {more} more {words} than before the conversion"
        if more := self._more(kind, self._empty):
            words = "transcript is empty" if more == 1 else "transcripts are empty"
            return f"{kind}: {more} more {words} than before the conversion"
        rise, most = self.rises[kind], max(limit, MOST_POINTS)
        if abs(rise.points) > most:
            return f"{self.rate_words(kind)}; over {most:g} points apart always fails"
        return self.told(kind, limit) if rise.apart(limit) else ""

    def told(self, kind: str, limit: float) -> str:
        """The rates of a type, the limit and the interval."""
        low, high = self.rises[kind].interval
        return (
            f"{self.rate_words(kind)}; at most {limit:g} points apart are allowed, and the rise is "
            f"{low:.1f} to {high:.1f} (95 %)"
        )

    def rate_words(self, kind: str) -> str:
        """`int8: WER 40.60 % on 16 clips, 40.00 % before the conversion`."""
        before, after = (
            score(self.references, texts, self.language)
            for texts in (self.merged, self.by_type[kind])
        )
        return (
            f"{kind}: {self.metric.upper()} {after.rate(self.metric):.2f} % on {after.clips} "
            f"clip{'' if after.clips == 1 else 's'}, {before.rate(self.metric):.2f} % before the "
            "conversion"
        )

    def _more(self, kind: str, faulty: Callable[[Sequence[str]], int]) -> int:
        return max(0, faulty(self.by_type[kind]) - faulty(self.merged))

    def _looping(self, texts: Sequence[str]) -> int:
        return sum(map(is_loop, self.references, texts))

    def _empty(self, texts: Sequence[str]) -> int:
        """Empty transcripts of clips in which something is said."""
        return sum(
            bool(normalise(said, self.language)) and not normalise(heard, self.language)
            for said, heard in zip(self.references, texts, strict=True)
        )


def check_conversion(
    config: GateConfig, found: Converted, models: Sequence[Path], labels: Labels
) -> Guard:
    """The converted models against the merged one in transformers.

    The tokenizers in the folders `models` have to encode the references as the base model's
    `labels` do.
    """
    limit = config.max_conversion_difference
    if limit is None:
        return not_checked(CONVERSION, "gate.max_conversion_difference is null")
    texts = found.references
    for model in models:
        if others := _encoded_otherwise(Labels(model, labels.language_token), labels, texts):
            return Guard(
                name=CONVERSION,
                state="failed",
                reason=f"the tokenizer in {model.name} is not that of the base model: it encodes "
                f"{others} of {len(texts)} test texts as other tokens",
            )
    if found.clips < FEWEST_CLIPS:
        return not_checked(
            CONVERSION,
            f"{found.clips} clip{'' if found.clips == 1 else 's'} with a reference, {FEWEST_CLIPS} "
            "are needed",
        )
    apart = {kind: abs(rise.points) for kind, rise in found.rises.items()}
    faults = {kind: found.fault(kind, limit) for kind in apart}
    worst = max(apart, key=lambda kind: (bool(faults[kind]), apart[kind]))
    return Guard(
        name=CONVERSION,
        state="failed" if faults[worst] else "passed",
        reason=faults[worst] or found.told(worst, limit),
        value=apart[worst],
        limit=limit,
        unit="points",
    )


def with_conversion(guards: Sequence[Guard], conversion: Guard) -> list[Guard]:
    """The guards of evaluation with that of the conversion; none if evaluation has none."""
    if not guards:
        return []
    return [*(it for it in guards if it.name != CONVERSION), conversion]


def _encoded_otherwise(own: Labels, base: Labels, texts: Sequence[str]) -> int:
    return sum(own.prompt + own.encode(it) != base.prompt + base.encode(it) for it in texts)
