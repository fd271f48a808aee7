"""What a user does with batches: many languages at once, each a job of its own.

The ids of a batch and of its jobs are hashes of the submitted specs, and of no file that these
name. Submitting the same specs again therefore finds the same batch, for every user and every
priority, and completes a submission that was interrupted.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorajob.corpora import find_corpus
from lorajob.errors import CorpusError, JobNotFoundError, LorajobError, ServiceError, UsageError
from lorajob.spec import JobSpec
from lorajob.storage.urls import public
from lorajob.tasks.broker import open_sender
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.named_files import changed_named, with_named, with_places
from lorajob.tasks.rebuild import record_there
from lorajob.worker.artifacts.lookup import find_job
from lorajob.worker.connect import service_errors
from lorajob.worker.queues import Priority
from lorajob.worker.records.batches import Batches, JobBatch
from lorajob.worker.records.names import UNNAMED, Naming
from lorajob.worker.records.record import JobRecord

PREFIX = "batch-"
ID_LETTERS = 8


@dataclass(frozen=True)
class Submitted:
    """The result of a submission: the batch, how many jobs it queued, and the rejected jobs."""

    batch: JobBatch
    queued: int
    rejected: dict[str, str]  # job id -> why
    notes: tuple[str, ...] = ()
    """Texts and glossaries that have changed since their jobs were queued."""


def submit_batch(
    jobs: Jobs,
    specs: Sequence[JobSpec],
    priority: Priority = "normal",
    salt: str = "",
    naming: Naming = UNNAMED,
) -> Submitted:
    """Queue one job per spec, under one batch.

    A job that is queued already stays as it is, also if its text or glossary has changed under the
    same path: a note says so. A job whose record Redis lost continues from its
    files. An existing batch keeps its priority.

    A spec without a corpus gets the newest corpus in LORAJOB_CORPORA; which one that is does not
    change the job's id, and neither does the text of `lorajob lm`. If the corpus, text or glossary
    of a spec is missing or cannot be read, its job is rejected and the other jobs are queued.
    Submitting the batch again once the file exists queues the rejected job. A `salt` makes a new
    batch of the same specs. The name of `naming` gets the code of each job's language. Raises
    UsageError if a training fits no card, the first job's LorajobError if every spec is refused,
    and ServiceError if Redis does not answer.
    """
    asked = [_resolved(jobs, spec) for spec in specs]
    corpora = jobs.settings.corpora and jobs.settings.corpora.resolve()
    batch_id, job_ids = _ids_asked_for(asked, corpora, salt)
    begun = {job: _begun(jobs, job) for job in job_ids}
    checked = {
        job: _checked(jobs, spec if spec.corpus else _with_corpus(spec, corpora), begun[job])
        for job, spec in zip(job_ids, asked, strict=True)
    }
    problems = {job: problem for job, (_, problem) in checked.items()}
    if all(problems.values()):
        raise next(error for error in problems.values() if error is not None)
    # Rejected jobs get it, too: they may be retried.
    specs = [
        spec if begun[job] or spec.evaluate.text else jobs.with_text(spec)
        for job, (spec, _) in checked.items()
    ]
    notes = [
        note
        for job, spec in zip(job_ids, asked, strict=True)
        if begun[job]
        for note in changed_named(spec, job, jobs.settings)
    ]
    batches = Batches(jobs.redis)
    new = JobBatch(
        id=batch_id,
        created_at=time.time(),
        user=jobs.user,
        priority=priority,
        jobs=tuple(job_ids),
    )
    with service_errors(jobs.settings):
        batch = batches.create(new)
    queued, rejected = 0, {}
    with open_sender(jobs.settings) as send:
        for job_id, spec in zip(job_ids, specs, strict=True):
            record = _queue(jobs, batch, job_id, spec, problems[job_id], send, naming)
            if record is None:
                continue
            queued += not record.over
            if record.state == "rejected":
                rejected[job_id] = record.error or ""
            if job_id not in batch.jobs:  # it was pruned
                with service_errors(jobs.settings):
                    batches.restore(record)
    with service_errors(jobs.settings):
        return Submitted(batches.load(batch_id), queued, rejected, tuple(notes))


@dataclass(frozen=True)
class BatchChange:
    """What was done to a batch."""

    jobs: list[str]
    """The ids of the jobs that were changed."""
    notes: list[str]
    """Why others were not."""


def check_specs(specs: Sequence[JobSpec]) -> None:
    """Raise UsageError if two languages have the same corpus or two specs are equal."""
    languages: dict[str, str] = {}
    seen: set[str] = set()
    for spec in specs:
        if (text := spec.model_dump_json()) in seen:
            raise UsageError(f"language: {spec.language} is there twice, with the same settings")
        seen.add(text)
        if not spec.corpus:
            continue  # it will be looked for by language
        other = languages.setdefault(spec.corpus, spec.language)
        if other != spec.language:
            raise UsageError(
                f"corpus: {public(spec.corpus)!r} is one for {other} and {spec.language};"
                f" put {{language}} in it"
            )


def load_batch(jobs: Jobs, batch_id: str) -> tuple[JobBatch, list[JobRecord]]:
    """A batch and the records of its jobs. Raises JobNotFoundError."""
    with service_errors(jobs.settings):
        batch = Batches(jobs.redis).load(batch_id)
        return batch, jobs.records.load_many(batch.jobs)


def cancel_batch(jobs: Jobs, batch_id: str) -> BatchChange:
    """Cancel all jobs that have not ended. Raises UsageError if all have."""
    _, records = load_batch(jobs, batch_id)
    active = [record.id for record in records if not record.over]
    if not active:
        raise UsageError(f"batch: all jobs of {batch_id} have ended")
    return _each(active, jobs.cancel)


def retry_batch(jobs: Jobs, batch_id: str, failed_only: bool = False) -> BatchChange:
    """Queue failed and rejected jobs again, and cancelled ones unless `failed_only`.

    Raises UsageError if the batch has no such job. If every retry is refused, raises the first
    LorajobError.
    """
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
    naming: Naming,
) -> JobRecord | None:
    """Create a job of the batch, send it unless it is rejected, and return its record.

    Returns None and changes nothing if the job was queued before, or was rejected and would be
    rejected again.
    """
    with service_errors(jobs.settings):
        mended = problem is None and _rejected(jobs, job_id)
        if mended:
            mended = jobs.records.forget(job_id)
        elif jobs.records.known(job_id):
            return None
    error = None if problem is None else str(problem)
    name = None if naming.name is None else f"{naming.name}-{spec.language.lower()}"
    naming = replace(naming, name=name)
    record = jobs.new_record(spec, job_id, batch.priority, batch.id, error, naming)
    if find_job(job_id, jobs.settings).has_spec() and not mended:
        return _take_up(jobs, record, send)
    jobs.queue(record, spec, send)
    return record


def _take_up(jobs: Jobs, record: JobRecord, send: Callable[[JobRecord], None]) -> JobRecord:
    """Queue a job that has files but no record; it continues from its files."""
    found = record_there(jobs.settings, record.id)
    kept = ("state", "created_at", "corpus", "error", "cancel_requested", "ended", "stages")
    record = record.model_copy(update={name: getattr(found, name) for name in kept})
    with service_errors(jobs.settings):
        created = jobs.records.create(record)
    if created and not created.over:
        send(created)
    return created or record


def _each(ids: Sequence[str], act: Callable[[str], object]) -> BatchChange:
    """Act on each job. Raises ServiceError at once, and a refusal only if every job is refused."""
    done: list[str] = []
    notes: list[str] = []
    first: LorajobError | None = None
    for job_id in ids:
        try:
            act(job_id)
            done.append(job_id)
        except JobNotFoundError:
            continue  # it was pruned since its record was read
        except ServiceError:
            raise
        # It ended or was queued since then, or lacks a file.
        except LorajobError as error:
            first = first or error
            notes.append(str(error) if job_id in str(error) else f"{job_id}: {error}")
    if first is not None and not done:
        raise first
    return BatchChange(done, notes)


def _resolved(jobs: Jobs, spec: JobSpec) -> JobSpec:
    """The spec with absolute places, without a look at its text and glossary."""
    given = spec.evaluate
    bare = given.model_copy(update={"text": None, "glossary": None})
    resolved = jobs.resolve(spec.model_copy(update={"evaluate": bare}))
    return with_places(resolved.model_copy(update={"evaluate": given}))


def _begun(jobs: Jobs, job_id: str) -> bool:
    """Whether the job was queued before. Its corpus may be missing by now."""
    with service_errors(jobs.settings):
        if jobs.records.known(job_id):
            return not _rejected(jobs, job_id)
    return find_job(job_id, jobs.settings).has_spec()


def _rejected(jobs: Jobs, job_id: str) -> bool:
    return [record.state for record in jobs.records.load_many([job_id])] == ["rejected"]


def _with_corpus(spec: JobSpec, corpora: Path | None) -> JobSpec:
    """The spec with the newest corpus of its language.

    If there is no such corpus, the spec gets a missing folder, for which the job is rejected.
    Raises CorpusError if LORAJOB_CORPORA is unset.
    """
    try:
        found = find_corpus(corpora, spec.language)
    except CorpusError:
        if corpora is None:
            raise
        found = corpora / spec.language
    return spec.model_copy(update={"corpus": str(found.resolve())})


def _checked(jobs: Jobs, spec: JobSpec, begun: bool) -> tuple[JobSpec, LorajobError | None]:
    """The spec with its text and glossary, and why its job is rejected. A job that was queued
    before is not checked.
    """
    if begun:
        return spec, None
    problem = _problem(jobs, spec)
    # Last: it may be a download.
    spec, missing = with_named(spec)
    return spec, problem or missing


def _problem(jobs: Jobs, spec: JobSpec) -> UsageError | CorpusError | None:
    try:
        jobs.check(spec)
    except (UsageError, CorpusError) as error:
        return error
    return None


def _ids_asked_for(
    specs: Sequence[JobSpec], corpora: Path | None, salt: str
) -> tuple[str, list[str]]:
    """The ids of the batch and of its jobs. The order of the specs does not change them.

    Of a text or glossary only the path goes into the hash, so an edited file makes no new batch.
    For a spec without a corpus the folder of the corpora goes into the hash. Settings that older
    versions lack do not, unless they are set: the same batch keeps its id.
    """
    asked = [
        spec.model_dump(mode="json", exclude=_unset(spec))
        | ({} if spec.corpus else {"corpora": str(corpora)})
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


def _unset(spec: JobSpec) -> dict[str, bool | set[str]]:
    newer = (
        "base_revision",
        "corpus_weight",
        "more_corpora",
        "test_corpus",
        "gate",
        "augment",
        "start",
        "text",
        "trackers",
    )
    fields = JobSpec.model_fields
    unset: dict[str, bool | set[str]] = {
        name: True for name in newer if getattr(spec, name) == fields[name].default
    }
    newer_train = ("interpolate", "encoder_alpha", "shuffle_hours")
    train = type(spec.train).model_fields
    unset["train"] = {it for it in newer_train if getattr(spec.train, it) == train[it].default}
    if "gate" not in unset:
        newer_gate = ("min_speed", "max_memory_gb")
        unset["gate"] = {it for it in newer_gate if getattr(spec.gate, it) is None}
    newer_evaluate: dict[str, object] = {"base_clips": "auto", "text": None, "text_sha256": None}
    newer_evaluate |= {"language_text": True}
    newer_evaluate |= {"glossary": None, "glossary_sha256": None}
    unset["evaluate"] = {
        name for name, value in newer_evaluate.items() if getattr(spec.evaluate, name) == value
    }
    return unset if spec.preprocess.columns else unset | {"preprocess": {"columns"}}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LETTERS]
