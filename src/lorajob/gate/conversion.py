"""The guard of the stage `convert`, and the verdict after it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lorajob.gate.texts import not_checked
from lorajob.job.results import Guard, Scores
from lorajob.spec_gate import GateConfig
from lorajob.whisper.tokens import Labels

CONVERSION = "conversion"


def check_conversion(
    config: GateConfig,
    sampled: Mapping[str, Scores],
    models: Sequence[Path],
    labels: Labels,
    texts: Sequence[str],
) -> Guard:
    """The converted models against the merged one in transformers.

    `sampled` has the rates of `merged` and of each converted type on the same clips. The tokenizers
    in the folders `models` have to encode `texts` as the base model's `labels` do.
    """
    limit = config.max_conversion_difference
    if limit is None:
        return not_checked(CONVERSION, "gate.max_conversion_difference is null")
    wer = sampled["merged"].wer
    apart = {kind: abs(it.wer - wer) for kind, it in sampled.items() if kind != "merged"}
    worst = max(apart, key=lambda kind: apart[kind])
    reason = (
        f"{worst}: WER {sampled[worst].wer:.2f} % on {sampled[worst].clips} clips, "
        f"{wer:.2f} % before the conversion; at most {limit:g} points apart are allowed"
    )
    failed = apart[worst] > limit
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
