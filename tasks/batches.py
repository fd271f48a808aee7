"""What a user does with batches: many languages at once, each a job of its own.

A batch's id is made of what was asked for, and so are its jobs' ids: the same batch submitted
again finds itself, whoever does it and however urgent it is now, and one whose submission was cut
short is completed.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorajob.corpora import find_corpus
from lorajob.errors import CorpusError, JobNotFoundError, LorajobError, UsageError
from lorajob.spec import JobSpec
from lorajob.tasks.broker import open_sender
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.rebuild import record_there
from lorajob.worker.artifacts.lookup import find_job
from lorajob.worker.connect import service_errors
from lorajob.worker.queues import Priority
from lorajob.worker.records.batches import Batches, JobBatch
from lorajob.worker.records.record import JobRecord

PREFIX = "batch-"
ID_LETTERS = 8


@dataclass(frozen=True)
class Submitted:
    """What became of a submission: the batch, how many jobs it queued now, what was refused."""

    batch: JobBatch
    queued: int
    rejected: dict[str, str]  # job id -> why


def submit_batch(
    jobs: Jobs, specs: Sequence[JobSpec], priority: Priority = "normal", salt: str = ""
) -> Submitted:
    """Queue a job a spec, under one batch; what is queued already stays as it is, and what Redis
    has lost goes on from its files. A batch that is there keeps its priority.

    A spec that names no corpus gets the newest in LORAJOB_CORPORA, and is the same whatever lies
    there. One whose corpus is not there becomes a job that was rejected, and stops no other; it is
    queued when it is submitted again with its corpus there. With a `salt` it is another batch than
    one that was asked for before. Raises UsageError where a training fits no card, that or
    CorpusError where every corpus is refused, ServiceError where Redis does not answer.
    """
    asked = [jobs.resolve(spec) for spec in specs]
    corpora = jobs.settings.corpora and jobs.settings.corpora.resolve()
    batch_id, job_ids = _ids_asked_for(asked, corpora, salt)
    specs = [spec if spec.corpus else _with_corpus(spec, corpora) for spec in asked]
    problems = {
        job: None if _begun(jobs, job) else _problem(jobs, spec)
        for job, spec in zip(job_ids, specs, strict=True)
    }
    if all(problems.values()):
        raise next(error for error in problems.values() if error is not None)
    batches = Batches(jobs.redis)
    made = {"id": batch_id, "created_at": time.time(), "user": jobs.user}
    with service_errors(jobs.settings):
        batch = batches.create(JobBatch(**made, priority=priority, jobs=tuple(job_ids)))
    queued, rejected = 0, {}
    with open_sender(jobs.settings) as send:
        for job_id, spec in zip(job_ids, specs, strict=True):
            record = _queue(jobs, batch, job_id, spec, problems[job_id], send)
            if record is None:
                continue
            queued += not record.over
            if record.state == "rejected":
                rejected[job_id] = record.error or ""
            if job_id not in batch.jobs:  # it was pruned
                with service_errors(jobs.settings):
                    batches.restore(record)
    with service_errors(jobs.settings):
        return Submitted(batches.load(batch_id), queued, rejected)


def load_batch(jobs: Jobs, batch_id: str) -> tuple[JobBatch, list[JobRecord]]:
    """A batch and the records of its jobs. Raises JobNotFoundError."""
    with service_errors(jobs.settings):
        batch = Batches(jobs.redis).load(batch_id)
        return batch, jobs.records.load_many(batch.jobs)


def cancel_batch(jobs: Jobs, batch_id: str) -> list[str]:
    """Cancel what has not ended; returns the ids. Raises UsageError where all has."""
    _, records = load_batch(jobs, batch_id)
    active = [record.id for record in records if not record.over]
    if not active:
        raise UsageError(f"batch: all jobs of {batch_id} have ended")
    return _each(active, jobs.cancel)


def retry_batch(jobs: Jobs, batch_id: str, failed_only: bool = False) -> list[str]:
    """Queue failed and rejected jobs again, and cancelled ones unless `failed_only`."""
    states = ("failed", "rejected") if failed_only else ("failed", "rejected", "cancelled")
    _, records = load_batch(jobs, batch_id)
    ids = [record.id for record in records if record.state in states]
    if not ids:
        raise UsageError(f"batch: no job of {batch_id} has {' or '.join(states)}")
    return _each(ids, jobs.retry)


def _queue(
    jobs: Jobs,
    batch: JobBatch,
    job_id: str,
    spec: JobSpec,
    problem: LorajobError | None,
    send: Callable[[JobRecord], None],
) -> JobRecord | None:
    """The new record of a job of the batch, which is sent unless it is rejected; None, and nothing,
    where it was queued before, or rejected as it would be now.
    """
    with service_errors(jobs.settings):
        mended = problem is None and _rejected(jobs, job_id)
        if mended:
            mended = jobs.records.forget(job_id)
        elif jobs.records.known(job_id):
            return None
    error = None if problem is None else str(problem)
    record = jobs.new_record(spec, job_id, batch.priority, batch.id, error)
    if find_job(job_id, jobs.settings).has_spec() and not mended:
        return _take_up(jobs, record, send)
    jobs.queue(record, spec, send)
    return record


def _take_up(jobs: Jobs, record: JobRecord, send: Callable[[JobRecord], None]) -> JobRecord:
    """Queue a job of which there are files, but no record any more: it goes on from them."""
    found = record_there(jobs.settings, record.id)
    kept = ("state", "created_at", "corpus", "error", "cancel_requested", "ended", "stages")
    record = record.model_copy(update={name: getattr(found, name) for name in kept})
    with service_errors(jobs.settings):
        created = jobs.records.create(record)
    if created and not created.over:
        send(created)
    return created or record


def _each(ids: Sequence[str], act: Callable[[str], object]) -> list[str]:
    done = []
    for job_id in ids:
        try:
            act(job_id)
            done.append(job_id)
        except (UsageError, JobNotFoundError):
            continue  # it has ended, was queued or was pruned this very moment
    return done


def _begun(jobs: Jobs, job_id: str) -> bool:
    """Whether the job was queued before: what became of its corpus since is no matter here."""
    with service_errors(jobs.settings):
        if jobs.records.known(job_id):
            return not _rejected(jobs, job_id)
    return find_job(job_id, jobs.settings).has_spec()


def _rejected(jobs: Jobs, job_id: str) -> bool:
    return [record.state for record in jobs.records.load_many([job_id])] == ["rejected"]


def _with_corpus(spec: JobSpec, corpora: Path | None) -> JobSpec:
    """The spec with the newest corpus of its language; without one with a folder that is not there,
    for which it will be rejected. Raises CorpusError where LORAJOB_CORPORA is unset.
    """
    try:
        found = find_corpus(corpora, spec.language)
    except CorpusError:
        if corpora is None:
            raise
        found = corpora / spec.language
    return spec.model_copy(update={"corpus": str(found.resolve())})


def _problem(jobs: Jobs, spec: JobSpec) -> UsageError | CorpusError | None:
    try:
        jobs.check(spec)
    except (UsageError, CorpusError) as error:
        return error
    return None


def _ids_asked_for(
    specs: Sequence[JobSpec], corpora: Path | None, salt: str
) -> tuple[str, list[str]]:
    """The ids of the batch and of its jobs, whatever the order in which they are asked for. Where
    a corpus is to be found, the folder in which it is looked for is part of what was asked for.
    """
    asked = [
        spec.model_dump(mode="json") | ({} if spec.corpus else {"corpora": str(corpora)})
        for spec in specs
    ]
    order = sorted(range(len(asked)), key=lambda one: json.dumps(asked[one], sort_keys=True))
    ordered = [asked[one] for one in order]
    text = json.dumps([ordered, salt], sort_keys=True, ensure_ascii=False)
    batch = _digest(text)
    seen: Counter[str] = Counter()
    ids = {}
    for one in order:
        name = specs[one].language.lower()
        seen[name] += 1
        ids[one] = f"{name}-{_digest(f'{batch} {name} {seen[name]}')}"
    return PREFIX + batch, [ids[one] for one in range(len(specs))]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LETTERS]
