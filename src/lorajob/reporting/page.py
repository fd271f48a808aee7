"""Writes the report of a job as one HTML file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lorajob.job.jobdir import JobDir
from lorajob.job.results import StageResult
from lorajob.reporting.advice import advice
from lorajob.reporting.charts import all_charts
from lorajob.reporting.compare import verdict
from lorajob.reporting.findings import Findings, ScoredClip, read_findings
from lorajob.reporting.html import fill, write_page
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
    clips: list[ScoredClip]


def write_report(job: JobDir, path: Path, full: bool = False) -> None:
    """Write the report of a job whose evaluation has finished to `path`.

    With `full`, all test clips are shown and all have sound, so that the file can be large. Raises
    StageError if the evaluation has not finished or its files are damaged.
    """
    write_page(path, render(job, read_findings(job), full))


def render(job: JobDir, findings: Findings, full: bool = False) -> str:
    """The page as HTML."""
    groups = choose_clips(findings, full)
    return fill(
        "report.html",
        all_charts(findings),
        findings=findings,
        corpus=public(findings.spec.corpus),
        base=public(findings.spec.base_model),
        verdict=verdict_line(findings),
        advice=advice(findings),
        groups=groups,
        sounds=_sounds(job, groups, None if full else SOUND_BYTES),
        costs=[_cost(name, result) for name, result in findings.stages.items()],
        versions={name: found for name in PACKAGES if (found := _version(name))},
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def verdict_line(findings: Findings) -> str:
    """A sentence for the change of the error rate."""
    if findings.change is None:
        return "The base model makes no errors on the test clips."
    return verdict(findings.change, "word" if findings.metric == "wer" else "character")


def choose_clips(findings: Findings, full: bool) -> list[ClipGroup]:
    """The clips that a reader wants to see first; with `full`, then all others.

    Each clip is in one group only.
    """
    after, metric = findings.after, findings.metric
    clips = findings.transcribed

    def change(clip: ScoredClip) -> int:
        return clip.change("base", after, metric) if "base" in clip.heard else 0

    keys: dict[str, Callable[[ScoredClip], int]] = {
        "Worst clips": lambda it: it.heard[after].counts(metric).errors,
        "Most worsened clips": lambda it: -change(it),
        "Most improved clips": change,
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


def _cost(name: str, result: StageResult) -> dict[str, object]:
    """What a stage took. Stages of older versions do not tell."""
    told = result.model_extra or {}
    return {
        "stage": name,
        "seconds": told.get("seconds"),
        "cpu_seconds": told.get("cpu_seconds"),
        "peak_memory_bytes": told.get("peak_memory_bytes"),
        "machine": told.get("machine"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
