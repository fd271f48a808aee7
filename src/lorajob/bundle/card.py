"""The model card of a bundle: YAML front matter with a model-index, and a page from card.md."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from lorajob import __version__
from lorajob.bundle.facts import Facts, Measured
from lorajob.bundle.layout import Layout
from lorajob.bundle.measure import LibraryScore
from lorajob.bundle.usage import examples
from lorajob.job.results import ERRORS_OF

DECODERS = {
    "base": "faster-whisper, its defaults",
    "delivered": "faster-whisper, its defaults",
    "tuned": "lorajob's decoder",
}
UNNAMED_DATA = "unnamed"


@dataclass(frozen=True)
class CardOptions:
    """What a card states besides the facts of the job."""

    title: str
    license: str | None
    repo: str | None  # OWNER/NAME on the Hub
    forced: bool  # published although the gate failed


def write_card(
    facts: Facts, layout: Layout, options: CardOptions, checked: Sequence[LibraryScore] = ()
) -> str:
    """The text of README.md. `checked` are the scores of its examples."""
    data = _front_matter(facts, layout, options).to_yaml()
    before = next((it for it in facts.rates if it.model == "base"), None)
    metric = facts.language.primary_metric
    against = "" if before is None else f"; the base model has {before.scores.rate(metric):.1f} %"
    if before is not None and facts.headline is not None:
        few = before.scores.clips
        against += f" on the first {few:,} of them" if few < facts.headline.scores.clips else ""
    page = _template().render(
        title=options.title,
        license=options.license,
        forced=options.forced,
        language=facts.language,
        base_link=_base_link(facts),
        base_state=_base_state(facts),
        headline=facts.headline,
        metric=metric,
        errors=ERRORS_OF[metric],
        against=against,
        rates=facts.rates,
        checked=checked,
        decoders=DECODERS,
        improvement=facts.improvement,
        gate=facts.gate,
        why=f": {'; '.join(facts.gate.reasons)}" if facts.gate.reasons else "",
        corpora=facts.corpora,
        counts=facts.counts,
        text=facts.spec.text,
        notes=facts.notes,
        warnings=facts.warnings,
        examples=list(examples(facts, layout, options.repo)),
        train=facts.spec.train,
        training=_training(facts),
        start=facts.spec.start if facts.spec.start.job else None,
        job=facts.job,
        version=__version__,
    )
    page = re.sub(r"\n{3,}", "\n\n", page.strip())
    return f"---\n{data}\n---\n\n{page}\n"


@cache
def _template() -> Template:
    text = files("lorajob.bundle").joinpath("card.md").read_text("utf-8")
    # The text is Markdown that the Hub sanitises: nothing is escaped as HTML.
    made = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals |= {"interval": _between, "span": _span, "hours": _hours, "figure": _figure}
    return made.from_string(text)


def _front_matter(facts: Facts, layout: Layout, options: CardOptions) -> Any:
    from huggingface_hub import ModelCardData

    tags = ["whisper", "lora", "lorajob"]
    tags += ["ctranslate2"] if layout.ctranslate2 else []
    tags += ["whisper.cpp"] if layout.ggml is not None else []
    main = "transformers" if layout.merged is not None else "ctranslate2"
    scored = facts.headline
    return ModelCardData(
        language=facts.language.code,
        license=options.license,
        library_name="peft" if layout.merged is None and layout.adapter is not None else main,
        tags=tags,
        base_model=facts.base.name,
        datasets=facts.data_sets or None,
        metrics=["wer", "cer"],
        pipeline_tag="automatic-speech-recognition",
        model_name=options.title if scored else None,
        eval_results=_results(facts, scored) if scored else None,
        ignore_metadata_errors=False,
    )


def _results(facts: Facts, scored: Measured) -> list[Any]:
    from huggingface_hub import EvalResult

    place = facts.spec.test_corpus or facts.spec.corpus
    names = dict(zip(facts.spec.places, facts.corpora, strict=False))
    name = names.get(place) or UNNAMED_DATA
    on_hub = name.startswith("hf:")
    spans = {"wer": scored.wer_interval, "cer": scored.cer_interval}
    found = []
    for metric, span in spans.items():
        arguments: dict[str, Any] = {"clips": scored.scores.clips, "normalized": True}
        if span is not None:
            arguments |= {"confidence_level": 0.95, "confidence_interval": list(span)}
        found.append(
            EvalResult(
                task_type="automatic-speech-recognition",
                task_name="Speech recognition",
                dataset_type=name[3:].partition("?")[0] if on_hub else "lorajob-corpus",
                dataset_name=name,
                dataset_split="test",
                metric_type=metric,
                metric_name=metric.upper(),
                metric_value=getattr(scored.scores, metric),
                metric_args=arguments,
            )
        )
    return found


def _base_link(facts: Facts) -> str:
    if facts.base.name is None:
        return "a base model that is not on the Hub"
    return f"[{facts.base.name}](https://huggingface.co/{facts.base.name})"


def _base_state(facts: Facts) -> str:
    """Commit and identity of the base model, as far as they are known."""
    commit = f", commit `{facts.base.commit}`" if facts.base.commit else ""
    return commit + (f", files `sha256:{facts.base.sha256}`" if facts.base.sha256 else "")


def _training(facts: Facts) -> str:
    said = [f"{facts.spec.train.epochs} epochs"]
    said += [f"{facts.steps:,} steps"] if facts.steps else []
    said += [f"learning rate {facts.learning_rate:.3g}"] if facts.learning_rate else []
    return ", ".join([*said, f"seed {facts.spec.seed}"])


def _between(pair: Sequence[float] | None) -> str:
    return "" if pair is None else f" (95 % interval {_span(pair)})"


def _span(pair: Sequence[float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.2f} to {pair[1]:.2f}"


def _hours(hours: float | None) -> str:
    return "" if hours is None else f" ({hours:.2f} h)"


def _figure(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}".strip()
