"""Writes the report of a job as one HTML file. It needs no network.

The page's Content-Security-Policy forbids every request. Vega compiles its expressions, so the
policy allows `unsafe-eval`; all text from the corpus is escaped.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from lorajob.job.jobdir import JobDir
from lorajob.job.results import StageResult
from lorajob.reporting.advice import advice
from lorajob.reporting.charts import all_charts
from lorajob.reporting.compare import verdict
from lorajob.reporting.findings import Clip, Findings, read_findings
from lorajob.reporting.sound import as_data_url
from lorajob.speech.clipstore import ClipStore
from lorajob.storage.urls import public

FEW = 8  # clips of each kind: worst, most improved, most worsened
SOUND_BYTES = 4_500_000  # of all sounds together, so that the page stays under 6 MB
PACKAGES = ("lorajob", "torch", "transformers", "peft", "ctranslate2", "faster-whisper", "jiwer")


@dataclass(frozen=True)
class ClipGroup:
    """Some clips of a page, under a title."""

    title: str
    clips: list[Clip]


def write_report(job: JobDir, path: Path, full: bool = False) -> None:
    """Write the report of a job whose evaluation has finished to `path`.

    With `full`, all test clips are shown and all have sound, so that the file can be large. Raises
    StageError if the evaluation has not finished or its files are damaged.
    """
    page = render(job, read_findings(job), full)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(page, "utf-8")
    temporary.replace(path)


def render(job: JobDir, findings: Findings, full: bool = False) -> str:
    """The page as HTML."""
    groups = choose_clips(findings, full)
    return (
        _environment()
        .get_template("report.html")
        .render(
            findings=findings,
            corpus=public(findings.spec.corpus),
            base=public(findings.spec.base_model),
            verdict=verdict(findings.change, "word" if findings.metric == "wer" else "character"),
            advice=advice(findings),
            charts={name: _script_json(spec) for name, spec in all_charts(findings).items()},
            groups=groups,
            sounds=_sounds(job, groups, None if full else SOUND_BYTES),
            costs=[_cost(name, result) for name, result in findings.stages.items()],
            versions={name: found for name in PACKAGES if (found := _version(name))},
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            bundle=_bundle(),
        )
    )


def choose_clips(findings: Findings, full: bool) -> list[ClipGroup]:
    """The clips that a reader wants to see first; with `full`, then all others.

    Each clip is in one group only.
    """
    after, metric = findings.after, findings.metric
    clips = findings.compared
    keys: dict[str, Callable[[Clip], int]] = {
        "Worst clips": lambda it: it.heard[after].counts(metric).errors,
        "Most worsened clips": lambda it: -it.change("base", after, metric),
        "Most improved clips": lambda it: it.change("base", after, metric),
    }
    groups = []
    left = list(clips)
    for title, key in keys.items():
        chosen = sorted((it for it in left if key(it) > 0), key=lambda it: (-key(it), it.id))[:FEW]
        left = [it for it in left if it not in chosen]
        groups.append(ClipGroup(title, chosen))
    if full:
        groups.append(ClipGroup("All other clips", left))
    return [group for group in groups if group.clips]


def _sounds(job: JobDir, groups: Sequence[ClipGroup], most: int | None) -> dict[str, str]:
    """Id -> sound of the shown clips, until they take `most` bytes."""
    folder = job.stage_dir("preprocess") / "test"
    if not folder.is_dir():
        return {}
    store = ClipStore(folder)
    sounds: dict[str, str] = {}
    size = 0
    for clip in (clip for group in groups for clip in group.clips):
        if clip.index is None or clip.id in sounds:
            continue
        sound = as_data_url(store.audio(clip.index))
        size += len(sound)
        if most is not None and size > most:
            break
        sounds[clip.id] = sound
    return sounds


def _cost(name: str, result: StageResult) -> dict[str, Any]:
    """What a stage took. Stages of older versions do not tell."""
    told = result.model_extra or {}
    return {
        "stage": name,
        "seconds": told.get("seconds"),
        "cpu_seconds": told.get("cpu_seconds"),
        "peak_memory_bytes": told.get("peak_memory_bytes"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _script_json(value: object) -> str:
    """JSON that is safe inside a <script> element."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _bundle() -> str:
    """JavaScript of Vega, Vega-Lite and vega-embed, which defines `vegaEmbed`."""
    code: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return code.replace("</script", "<\\/script")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lorajob.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["time"] = _time
    environment.filters["size"] = _size
    return environment


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _size(count: float | None) -> str:
    return "–" if count is None else f"{count / 1e9:.1f} GB"
