"""The guard of the stage `convert`, and the verdict after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lorajob.gate.texts import Rise, not_checked
from lorajob.job.results import Guard, Metric
from lorajob.languages import find_language
from lorajob.spec_gate import GateConfig
from lorajob.speech.scoring import score
from lorajob.whisper.tokens import Labels

CONVERSION = "conversion"


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

    def apart(self, kind: str, limit: float) -> bool:
        """Whether a type differs by over `limit` points, and by more than so few clips explain."""
        clips = score(self.references, self.merged, self.language).clips
        # One clip has no interval.
        return clips > 1 and self.rises[kind].apart(limit)

    def rate_words(self, kind: str) -> str:
        """`int8: WER 40.60 % on 16 clips, 40.00 % before the conversion`."""
        before, after = (
            score(self.references, texts, self.language)
            for texts in (self.merged, self.by_type[kind])
        )
        return (
            f"{kind}: {self.metric.upper()} {after.rate(self.metric):.2f} % on {after.clips} "
            f"clips, {before.rate(self.metric):.2f} % before the conversion"
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
    apart = {kind: abs(rise.points) for kind, rise in found.rises.items()}
    worst = max(apart, key=lambda kind: (found.apart(kind, limit), apart[kind]))
    low, high = found.rises[worst].interval
    reason = (
        f"{found.rate_words(worst)}; at most {limit:g} points apart are allowed, and the rise is "
        f"{low:.1f} to {high:.1f} (95 %)"
    )
    failed = found.apart(worst, limit)
    for model in models:
        if others := _encoded_otherwise(Labels(model, labels.language_token), labels, texts):
            failed = True
            reason = (
                f"the tokenizer in {model.name} is not that of the base model: it encodes "
                f"{others} of {len(texts)} test texts as other tokens"
            )
            break
    return Guard(
        name=CONVERSION,
        state="failed" if failed else "passed",
        reason=reason,
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
