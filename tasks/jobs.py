"""What a user does with jobs: submit, show, cancel, retry.

The commands call this module. It imports Celery only when it sends a job.
"""

import getpass
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from redis import Redis

from lorajob.corpora import Corpus, check_remote
from lorajob.demo.packaged import PACKAGED_NAME
from lorajob.errors import JobNotFoundError, LorajobError, ServiceError, UsageError
from lorajob.gpu_memory import job_gb
from lorajob.job.jobdir import JOB_ID
from lorajob.spec import FORMAT, JobSpec
from lorajob.storage.hub import hub_commit
from lorajob.storage.store import StoreError
from lorajob.storage.urls import is_url, local_path
from lorajob.tasks.describe import Wait, after_failure, awaited_queue
from lorajob.tasks.job_glossary import with_glossary
from lorajob.tasks.language_texts import with_language_text
from lorajob.tasks.named_files import complete_named, copy_named
from lorajob.tasks.start import (
    FolderStamp,
    absolute_base,
    check_base_files,
    copy_start,
    fit_start,
    folder_stamp,
    with_sounds,
)
from lorajob.tasks.texts import with_text
from lorajob.tasks.uploads import Uploads
from lorajob.worker.artifacts.lookup import (
    find_job,
    job_place,
    open_job,
    put_base,
    put_corpus,
    recorded_ids,
)
from lorajob.worker.artifacts.signature import put_signature
from lorajob.worker.connect import connect, service_errors
from lorajob.worker.health import Unfit, serving, unfit_workers
from lorajob.worker.heartbeats import Version, living, versions
from lorajob.worker.queues import KINDS, Priority, memory_class
from lorajob.worker.records import twins
from lorajob.worker.records.names import UNNAMED, Naming
from lorajob.worker.records.origin import make_origin
from lorajob.worker.records.record import JobRecord, new_stages
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings

logger = logging.getLogger(__name__)


class Jobs:
    """The jobs of one service. Every method raises ServiceError if Redis does not answer."""

    def __init__(self, settings: Settings, redis: Redis | None = None) -> None:
        """`redis` is a client to use in place of a new one."""
        self._settings, self._shared = settings, redis
        # (corpus, language, columns) of a local corpus -> where every machine finds it
        self._places: dict[tuple[str, ...], str] = {}
        # base model -> how every machine finds it
        self._bases: dict[str, str] = {}
        # base model -> stamp of its folder when it was checked
        self._checked: dict[str, FolderStamp] = {}
        # (base model, revision) -> commit on the Hub; None for a folder, or without an answer
        self._commits: dict[tuple[str, str | None], str | None] = {}
        self._submitted: dict[str, JobSpec] = {}  # the last job of `submit`

    @property
    def settings(self) -> Settings:
        return self._settings

    @cached_property
    def redis(self) -> Redis:
        # On first use: job.json can be read without Redis.
        return connect(self._settings) if self._shared is None else self._shared

    @cached_property
    def records(self) -> Records:
        return Records(self.redis, self._settings.place_of)

    @cached_property
    def user(self) -> str | None:
        """The submitting user: LORAJOB_USER, or the name of the machine's user."""
        try:
            return self._settings.user or getpass.getuser()
        except (KeyError, OSError):  # a container's user may have no name
            return None

    def submit(self, spec: JobSpec, priority: Priority = "normal", naming: Naming = UNNAMED) -> str:
        """Queue a job and return its id, such as `hi-1a2b3c4d`.

        Raises UsageError or CorpusError for a corpus that is missing or of another language. If
        anything fails, folder and record are removed and nothing stays queued.
        """
        spec = self.resolve(spec)
        self.check(spec)
        spec = self.with_text(spec)
        with service_errors(self._settings):
            self.redis.ping()  # before anything is written
        job_id = f"{spec.language.lower()}-{secrets.token_hex(4)}"
        record = self.new_record(spec, job_id, priority, naming=naming)
        self.queue(record, spec)
        twins.remember(self.redis, spec, job_id)
        self._submitted = {job_id: spec}
        return job_id

    def twin(self, job_id: str, spec: JobSpec) -> JobRecord | None:
        """An earlier job with the same spec, submitted at most a day before `job_id`; else None.

        The job is queued already, so an error is only logged.
        """
        try:
            spec = self._submitted.get(job_id) or self.with_text(self.resolve(spec))
            with service_errors(self._settings):
                found = self.records.load_many(twins.earlier(self.redis, spec, job_id))
        except LorajobError as error:
            logger.debug("no twin of %s: %s", job_id, error)
            return None
        return found[0] if found else None

    def resolve(self, spec: JobSpec) -> JobSpec:
        """The spec with absolute paths, since workers run in other folders; a url stays unchanged.
        Its text is left to `with_text`.

        A job that starts from another one's adapter gets its base model and shape. Raises
        UsageError if that adapter does not fit, and for a training that needs more memory than any
        card has.
        """
        names_base = "base_model" in spec.model_fields_set
        spec = spec.with_places(_place_of)
        spec = spec.model_copy(update={"base_model": absolute_base(spec.base_model)})
        spec = spec.model_copy(update={"augment": with_sounds(spec.augment)})
        spec = with_glossary(spec)
        if spec.start.job is not None:
            record = self.load(spec.start.job)
            spec = fit_start(spec, names_base, record, open_job(record, self._settings))
        _memory_class(spec)
        return spec

    def with_text(self, spec: JobSpec) -> JobSpec:
        """The spec with its text, or that of its language. The whole text is read."""
        return with_text(with_language_text(spec, self._settings))

    def check(self, spec: JobSpec) -> None:
        """Raise UsageError or CorpusError for a corpus that is missing or of another language.

        If the jobs are in a store, a corpus or base model that only this machine has is uploaded to
        it. A base model on the Hub is resolved to a commit, and refused if the Hub lacks it.
        """
        base = spec.base_model, spec.base_revision
        stamp = folder_stamp(spec.base_model)
        check_base_files(spec, known=self._checked.get(spec.base_model) == stamp)
        self._checked[spec.base_model] = stamp
        if base not in self._commits:
            self._commits[base] = _commit_of(*base)
        from lorajob.checking.glance import check_tables

        found = [self._check_corpus(*place, spec) for place in spec.checked_places]
        found = found[: len(spec.places)]
        read = [corpus for corpus in found if corpus is not None]
        if len(read) == len(found):
            check_tables(read, spec)
        # Last, because it is large. Anew for each job: the folder may have changed since.
        self._bases[spec.base_model] = put_base(self._settings, spec.base_model)

    def _check_corpus(
        self, corpus: str, language: str, columns: Mapping[Any, str], spec: JobSpec
    ) -> Corpus | None:
        """Check one corpus. Returns it if its tables can be read quickly."""
        from lorajob.checking.glance import glance

        if local_path(corpus) is None:
            check_remote(corpus)
            return glance(corpus, language, columns, spec)
        Uploads(self._settings).keep(corpus)
        found = glance(corpus, language, columns, spec)
        asked = _asked(corpus, language, columns)
        if asked not in self._places:
            self._places[asked] = put_corpus(self._settings, corpus, language, columns)
        return found

    def new_record(
        self,
        spec: JobSpec,
        job_id: str,
        priority: Priority = "normal",
        batch: str | None = None,
        error: str | None = None,
        naming: Naming = UNNAMED,
    ) -> JobRecord:
        """The record of a new job. With an `error` the job is rejected."""
        return JobRecord(
            id=job_id,
            language=spec.language,
            state="queued" if error is None else "rejected",
            created_at=time.time(),
            corpus=spec.corpus,
            more_corpora=spec.all_places[1:],
            base_model=spec.base_model,
            folder=job_place(self._settings, job_id),
            error=error,
            user=self.user,
            name=naming.name,
            tags=dict(naming.tags),
            batch=batch,
            priority=priority,
            memory_class=_memory_class(spec),
            version=FORMAT,
            stages=new_stages(),
        )

    def queue(
        self, record: JobRecord, spec: JobSpec, send: Callable[[JobRecord], None] | None = None
    ) -> None:
        """Write the folder and record of a new job, and send it unless it was rejected.

        The job must not have files yet.
        """
        asked = {place[0]: _asked(*place) for place in reversed(spec.checked_places)}
        spec = spec.with_places(lambda place: self._places.get(asked[place], place))
        commit = self._commits.get((spec.base_model, spec.base_revision))
        if commit is not None:
            spec = spec.model_copy(update={"base_revision": commit})
        base = self._bases.get(spec.base_model, spec.base_model)
        spec = spec.model_copy(update={"base_model": base})
        place = {"corpus": spec.corpus, "more_corpora": spec.all_places[1:], "base_model": base}
        with service_errors(self._settings):
            record = make_origin(self.redis, self._settings).mark(record)
        record = record.model_copy(update=place)
        created: JobRecord | None = None
        try:
            files, written = open_job(record, self._settings), spec.as_written()
            files.put_spec(written)
            if spec.start.job is not None:
                source = self.load(spec.start.job)
                copy_start(spec, source, open_job(source, self._settings), files)
            copy_named(spec, files.location, refused=record.over)
            put_signature(files.location, self._settings.signing_key, record.id, written)
            with service_errors(self._settings):
                created = self.records.create(record)
            if created and not created.over:
                (send or self._send)(created)
        except BaseException:  # Ctrl-C must not leave a half submitted job either
            # Another client that submits the same batch may have counted a job that was created.
            # It stays queued, and the reconciler sends it.
            counted = record.batch is not None and created is not None
            if not counted and not self._overtaken(record):
                self._withdraw(record)
            raise

    def load(self, job_id: str, mirrored: bool = True) -> JobRecord:
        """The record of a job. Raises JobNotFoundError.

        With `mirrored` it comes from job.json if Redis is unavailable or has lost the record.
        """
        _check_id(job_id)
        try:
            with service_errors(self._settings):
                return self.records.load(job_id)
        except (ServiceError, JobNotFoundError):
            found = find_job(job_id, self._settings).read_record() if mirrored else None
            if found is None:
                raise
            return found

    def newest(self, limit: int = 20) -> list[JobRecord]:
        """The newest `limit` jobs, newest first."""
        with service_errors(self._settings):
            return self.records.newest(limit)

    def damaged(self) -> dict[str, str]:
        """The jobs that were set aside because their records are damaged, and why."""
        with service_errors(self._settings):
            return self.records.damaged()

    def unknown(self) -> list[str]:
        """The jobs that have a folder, if Redis has no record at all because it lost its data."""
        with service_errors(self._settings):
            if self.records.newest(1):
                return []
        return recorded_ids(self._settings)

    def cancel(self, job_id: str) -> str:
        """Stop a job and keep its checkpoints; return `cancelled` or `cancelling`.

        A queued stage is cancelled at once; a running stage is cancelled by its worker. Raises
        JobNotFoundError, and UsageError for a job that has succeeded or failed.
        """
        _check_id(job_id)
        with service_errors(self._settings):
            answer = self.records.cancel(job_id)
        if answer not in ("cancelled", "cancelling"):
            allowed = "only a queued or running job is cancelled"
            raise UsageError(f"job: {job_id} has {answer}; {allowed}")
        return answer

    def retry(self, job_id: str) -> None:
        """Continue a failed, rejected or cancelled job from its first unfinished stage.

        Raises JobNotFoundError, and UsageError for a job in any other state, or whose text or
        glossary is still missing.
        """
        _check_id(job_id)
        with service_errors(self._settings):
            for found in self.records.load_many([job_id]):
                if found.state == "rejected":
                    complete_named(found, self._settings)
            answer = self.records.retry(job_id)
            if answer != "retried":
                allowed = "only a failed, rejected or cancelled one is retried"
                raise UsageError(f"job: {job_id} is {answer}; {allowed}")
            record = self.records.load(job_id)
        try:
            self._send(record)
        except ServiceError as error:  # the reconciler sends queued jobs that have no message
            logger.warning("%s", error)

    def workers(self, served: str, format: int = 0) -> int:
        """How many live workers take work of a kind or class of queues, such as cpu or gpu24, and
        read jobs of a format.
        """
        with service_errors(self._settings):
            return len(serving(self.redis, served, format))

    def versions(self) -> dict[str, Version]:
        """What the live workers run."""
        with service_errors(self._settings):
            names = {name for queue in KINDS for name in living(self.redis, queue)}
            return versions(self.redis, sorted(names))

    def unfit(self) -> dict[str, Unfit]:
        """The live workers that take no work, and why."""
        with service_errors(self._settings):
            names = {name for queue in KINDS for name in living(self.redis, queue)}
            return unfit_workers(self.redis, names)

    def _send(self, record: JobRecord) -> None:
        from lorajob.tasks.broker import send  # imports Celery, which only sending needs

        send(record, self._settings)

    def _overtaken(self, record: JobRecord) -> bool:
        """Whether another process created the record of that id, as for a batch submitted twice."""
        try:
            with service_errors(self._settings):
                return self.records.load(record.id).created_at != record.created_at
        except LorajobError:
            return False

    def _withdraw(self, record: JobRecord) -> None:
        """Remove a job that was not sent. A message that was sent finds no record."""
        try:
            with service_errors(self._settings):
                self.records.delete(record.id)
        except ServiceError:
            logger.debug("Redis is unavailable; without its folder the job cannot run anyway")
        try:
            open_job(record, self._settings).withdraw()
        except StoreError as error:  # without a record no worker runs it
            logger.warning("%s", error)


def _place_of(corpus: str) -> str:
    """The corpus as workers find it: an absolute path or a url; an empty name stays empty."""
    path = local_path(corpus)
    return corpus if not corpus or path is None else str(path.expanduser().resolve())


def _asked(corpus: str, language: str, columns: Mapping[Any, str]) -> tuple[str, ...]:
    return (corpus, language, *sorted(f"{role}={name}" for role, name in columns.items()))


def _check_id(job_id: str) -> None:
    if not JOB_ID.fullmatch(job_id):
        raise UsageError(f"job: {job_id!r} is not a job id, such as hi-1a2b3c4d")


def _memory_class(spec: JobSpec) -> int | None:
    needed = job_gb(spec)
    try:
        return memory_class(needed)
    except ValueError as error:
        raise UsageError(f"train: no card is large enough: {error}") from None


def _commit_of(base_model: str, revision: str | None) -> str | None:
    if base_model == PACKAGED_NAME or is_url(base_model) or Path(base_model).expanduser().exists():
        return None
    return hub_commit(base_model, revision)


def _unfit(jobs: Jobs, queue: str, format: int) -> str:
    """Why the live workers of a queue do not take a job of a format, in words; "" if none lives."""
    with service_errors(jobs.settings):
        names = living(jobs.redis, queue)
        found = sorted(unfit_workers(jobs.redis, names).items())
        known = versions(jobs.redis, names)
    why = [f"{name} takes no work: {unfit.why}" for name, unfit in found]
    why += [
        f"{name} runs lorajob {it.package}, which is too old for the job"
        for name, it in known.items()
        if it.format < format
    ]
    return "; ".join(why)


def waits(jobs: Jobs, records: Iterable[JobRecord]) -> dict[str, Wait]:
    """What each job waits for, by its id. Jobs that run or have ended are left out.

    Returns {} if Redis does not answer.
    """
    found: dict[str, Wait] = {}
    workers: dict[tuple[str, int], int] = {}
    unfit: dict[tuple[str, int], str] = {}
    for record in records:
        queue = awaited_queue(record)
        if queue is None:
            continue
        asked = queue, record.version
        if asked not in workers:
            try:
                workers[asked] = jobs.workers(*asked)
                unfit[asked] = "" if workers[asked] else _unfit(jobs, *asked)
            except ServiceError:
                return {}
        card = record.memory_class if queue[3:] else None
        found[record.id] = Wait(queue, workers[asked], card, after_failure(record), unfit[asked])
    return found
