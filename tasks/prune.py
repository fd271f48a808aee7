"""Removes jobs that ended long ago: their folders, records and entries in batches."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorajob.errors import LorajobError, RecordError, ServiceError, UsageError
from lorajob.job.results import headline
from lorajob.storage.folders import sweep
from lorajob.tasks.bases import drop_bases
from lorajob.tasks.glossaries import GlossaryFiles
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.promotions import Promotions
from lorajob.tasks.uploads import Uploads
from lorajob.tasks.words import language_of
from lorajob.worker.artifacts.lookup import find_job, open_job
from lorajob.worker.connect import service_errors
from lorajob.worker.records.batches import Batches
from lorajob.worker.records.damage import damage_of, drop_damaged
from lorajob.worker.records.record import JobRecord

logger = logging.getLogger(__name__)

UNIT_SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}
Keep = Literal["best", "none"]


@dataclass(frozen=True)
class Pruned:
    """What was deleted, or would be."""

    jobs: list[JobRecord]
    """The one that ended first first."""
    corpora: list[Path]
    """The folders of corpora that other machines sent, which no job needs."""
    notes: list[str]
    """What could not be deleted."""


def prune_all(
    jobs: Jobs, older_seconds: float, keep: Keep = "best", dry_run: bool = False
) -> Pruned:
    """Delete the records and files of the jobs that `to_prune` lists, the one that ended first
    first. Then delete base models in the store and corpora that other machines sent, if unused.

    Jobs whose models are promoted stay, and those that a rollback would bring back. A job that is
    retried meanwhile stays. What cannot be deleted becomes a note, and the next prune tries again.
    `rebuild` finds such a job until its folder is put aside. If Redis stops answering, it ends
    there. Raises ServiceError if Redis does not answer at all.
    """
    chosen, uploads = _chosen(jobs, older_seconds, keep), Uploads(jobs.settings)
    if dry_run:
        return Pruned(chosen, *_noted(lambda: uploads.unused(jobs)))
    deleted: list[JobRecord] = []
    notes: list[str] = []
    try:
        with _noting(notes, "parts of jobs are"):
            _sweep(jobs)
        for record in chosen:
            with _noting(notes, f"{record.id} is"):
                if _deleted(jobs, record):
                    deleted.append(record)
        with _noting(notes, "unused base models are"):
            drop_bases(jobs)
    except ServiceError:
        return Pruned(deleted, [], notes)
    corpora, more = _noted(lambda: uploads.drop_unused(jobs))
    return Pruned(deleted, corpora, notes + more)


@contextmanager
def _noting(notes: list[str], part: str) -> Iterator[None]:
    """An error of the block becomes a note. A ServiceError is raised, too."""
    try:
        yield
    except (LorajobError, OSError) as error:
        notes.append(f"{part} not deleted: {_reason(error)}; prune again later")
        if isinstance(error, ServiceError):
            raise


def _noted(act: Callable[[], list[Path]]) -> tuple[list[Path], list[str]]:
    try:
        return act(), []
    except (LorajobError, OSError) as error:
        return [], [f"unused corpora are not deleted: {_reason(error)}"]


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def parse_age(text: str) -> float:
    """Seconds of `30d`, `12h`, `8w`. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if found is None:
        raise UsageError(f"--older: {text!r} is not allowed; such as 12h, 30d or 8w")
    return float(found[1]) * UNIT_SECONDS[found[2]]


def to_prune(
    records: Iterable[JobRecord], older_seconds: float, keep: Keep, now: float | None = None
) -> list[JobRecord]:
    """The jobs that ended more than `older_seconds` ago. Jobs that have not ended are never listed.

    With keep `best` the job with the lowest error rate of each language, base model and set of test
    clips is left out, however old it is. `now` is Redis's clock, as are the times of records.
    """
    records = list(records)
    latest = (time.time() if now is None else now) - older_seconds
    best: dict[tuple[str, ...], JobRecord] = {}
    for record in records if keep == "best" else ():
        rate = error_rate(record)
        key = record.language, record.base_model, *tested_on(record)
        if rate is not None and (key not in best or rate < (error_rate(best[key]) or 0.0)):
            best[key] = record
    kept = {record.id for record in best.values()}
    return [
        record
        for record in records
        if record.over and record.id not in kept and ended_at(record) < latest
    ]


def error_rate(record: JobRecord) -> float | None:
    """The error rate of the delivered model in percent, by the metric of the job's language; None
    for a job that has not succeeded.
    """
    name = headline(record.scores)
    if name is None or record.state != "succeeded":
        return None
    return record.scores[name].rate(language_of(record.language).primary_metric)


def tested_on(record: JobRecord) -> tuple[str, ...]:
    """What tells the test clips of a job from those of another.

    That is the hash of the preprocessed clips. Results of older versions lack it: then the corpus
    and the number of the scored clips.
    """
    result = record.stages["evaluate"].result
    if result is not None and result.inputs and "preprocess" in result.inputs:
        return (result.inputs["preprocess"],)
    tuned = record.scores.get("tuned")
    return record.corpus, str(tuned.clips if tuned is not None else 0)


def ended_at(record: JobRecord) -> float:
    """When the last finished stage ended, else when the job was made; seconds since the epoch."""
    times = [stage.finished_at for stage in record.stages.values() if stage.finished_at]
    return max(times, default=record.created_at)


def _chosen(jobs: Jobs, older_seconds: float, keep: Keep) -> list[JobRecord]:
    with service_errors(jobs.settings):
        records = jobs.records.load_many(jobs.records.ids())
        seconds, micros = jobs.redis.time()
        now = seconds + micros / 1e6
        promoted = Promotions(jobs.settings).kept()
        old = to_prune([it for it in records if it.id not in promoted], older_seconds, keep, now)
        return sorted(old, key=ended_at)


def _sweep(jobs: Jobs) -> None:
    for left in sweep(jobs.settings.jobs):
        logger.warning("%s cannot be deleted", left)


def remove(jobs: Jobs, job_id: str) -> None:
    """Delete the record and the files of one job.

    Raises JobNotFoundError, and UsageError for a job that is queued or runs, or whose model answers
    for its language.
    """
    record = check_removable(jobs, job_id)
    if not _deleted(jobs, record):
        raise _not_over(record)


def check_removable(jobs: Jobs, job_id: str) -> JobRecord:
    """The record of a job that `remove` would delete. Raises as `remove`."""
    check_not_promoted(jobs, job_id)
    record = jobs.load(job_id, mirrored=False)
    if not record.over:
        raise _not_over(record)
    return record


def _not_over(record: JobRecord) -> UsageError:
    return UsageError(
        f"job: {record.id} is {record.state}; only an ended job is deleted, so `lorajob cancel "
        f"{record.id}` first"
    )


def damage(jobs: Jobs, job_id: str) -> str | None:
    """Why the record of a job cannot be read; None if it can be read or does not exist."""
    with service_errors(jobs.settings):
        return damage_of(jobs.records, job_id)


def copy_of(jobs: Jobs, job_id: str) -> JobRecord | None:
    """The record in a job's job.json; None if that is missing or damaged too."""
    try:
        return find_job(job_id, jobs.settings).read_record()
    except RecordError:
        return None


def remove_damaged(jobs: Jobs, job_id: str) -> None:
    """Delete a damaged record, whatever its state was, and the files of the job.

    Raises UsageError for a job whose model answers for its language.
    """
    check_not_promoted(jobs, job_id)
    copy = copy_of(jobs, job_id)
    with service_errors(jobs.settings):
        drop_damaged(jobs.redis, jobs.records, job_id)
        if copy is not None and copy.batch:
            Batches(jobs.redis).remove(job_id, copy.batch)
    GlossaryFiles(jobs.settings).forget_job(job_id)
    find_job(job_id, jobs.settings).remove()


def check_not_promoted(jobs: Jobs, job_id: str) -> None:
    """Raise UsageError for a job whose model is promoted."""
    language = Promotions(jobs.settings).current_jobs().get(job_id)
    if language is not None:
        raise UsageError(
            f"job: {job_id} is the promoted model of {language}; `lorajob rollback {language}`, or "
            "promote another job, first"
        )


def _deleted(jobs: Jobs, record: JobRecord) -> bool:
    """Delete an ended job; False if it is not over any more."""
    with service_errors(jobs.settings):
        if not jobs.records.forget(record.id):
            return False
        if record.batch:
            Batches(jobs.redis).remove(record.id, record.batch)
    # First: a kill in between leaves a job without its glossary, which the next prune deletes.
    GlossaryFiles(jobs.settings).forget_job(record.id)
    open_job(record, jobs.settings).remove()
    return True
