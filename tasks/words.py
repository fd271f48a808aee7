"""Words for jobs that the tables of the command line and the pages share."""

import re

from lorajob.errors import UsageError
from lorajob.job.report import Progress
from lorajob.job.results import headline
from lorajob.job.states import JobState
from lorajob.languages import Language, find_language
from lorajob.storage.urls import public
from lorajob.worker.records.record import JobRecord

ARCHIVE = re.compile(r"(\.(tar|tgz|zip|gz|bz2|xz|zst|tsv|csv|jsonl?|parquet))+$", re.IGNORECASE)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`: two units at most."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if hours < 1:
        return f"{minutes} min {whole % 60} s" if minutes < 10 else f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def ended_seconds(record: JobRecord) -> float:
    """How long the ended attempts of a job ran."""
    ended = sum(it.ended_at - it.started_at for it in record.ended)
    # Records of version 0.1.0 have no attempts.
    known = {it.stage for it in record.ended}
    for name, it in record.stages.items():
        if name not in known and it.started_at and it.finished_at:
            ended += it.finished_at - it.started_at
    return ended


def progress_words(progress: Progress | None) -> str:
    """`120/180, loss 1.93, eta 3 min` from a stage's last report; empty without a report."""
    if progress is None or not progress.total:
        return ""
    words = [f"{progress.step}/{progress.total}"]
    if isinstance(phase := (progress.model_extra or {}).get("phase"), str):
        words.append(phase)
    if progress.loss is not None:
        words.append(f"loss {progress.loss:.3g}")
    if progress.eta_seconds:
        words.append(f"eta {duration(progress.eta_seconds)}")
    return ", ".join(words)


def current_stage(record: JobRecord) -> tuple[str, str]:
    """The current stage of a job and its progress; for a finished job, the last stage."""
    at = record.standing
    if at.stage is None:
        return "", ""
    running = at.stage_state == "running"
    return at.stage, progress_words(record.stages[at.stage].progress) if running else ""


def state_of_work(record: JobRecord) -> JobState:
    """The state for people: `queued` between two stages, until a worker takes the next one."""
    return "queued" if record.state == "running" and record.standing.waits else record.state


def gain(record: JobRecord) -> str:
    """`115.4 -> 53.7`: WER of base and delivered model; empty until both are known.

    In scripts without spaces it is the CER: `CER 60.2 -> 20.4`.
    """
    scores = record.scores
    after = headline(scores)
    if "base" not in scores or after is None:
        return ""
    metric = language_of(record.language).primary_metric
    before, now = scores["base"].rate(metric), scores[after].rate(metric)
    return f"{'' if metric == 'wer' else 'CER '}{before:.1f} -> {now:.1f}"


def done_share(record: JobRecord) -> float:
    """The share of a job that is done, 0 to 1. All stages count the same."""
    done = 0.0
    for stage in record.stages.values():
        if stage.state == "succeeded":
            done += 1
        elif stage.state == "running" and stage.progress is not None:
            done += min(1.0, stage.progress.share)
    return done / len(record.stages)


def language_of(code: str) -> Language:
    """The language of a code, also one that only a newer version knows."""
    try:
        return find_language(code)
    except UsageError:
        return Language(code, code, code, "wer")


def base_model_name(model: str) -> str:
    """The last part of an id, a path or a url; of a snapshot in the Hub's cache, the model's."""
    parts = public(model).rstrip("/").split("/")
    if len(parts) > 2 and parts[-2] == "snapshots":
        return parts[-3].rpartition("--")[2]
    return parts[-1]


def corpus_name(place: str) -> str:
    """The last part of a path or url, without the endings of an archive."""
    whole = public(place).partition("?")[0].rstrip("/")
    return ARCHIVE.sub("", whole.rpartition("/")[2].rpartition(":")[2]) or whole
