"""What a user does with jobs: submit, look, cancel, retry.

The commands call this; Celery is only loaded where something is sent.
"""

import logging
import secrets
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from redis import Redis

from lorajob.corpora import check_corpus, check_remote
from lorajob.errors import JobNotFoundError, ServiceError, UsageError
from lorajob.jobdir import JOB_ID
from lorajob.spec import JobSpec
from lorajob.stores import is_url
from lorajob.worker.connect import connect, service_errors
from lorajob.worker.heartbeats import QUEUE_NAMES, living
from lorajob.worker.record import JobRecord, new_stages
from lorajob.worker.records import Records
from lorajob.worker.settings import Settings
from lorajob.worker.stored_jobs import (
    job_place,
    put_spec,
    read_record,
    recorded_ids,
    withdraw,
)

logger = logging.getLogger(__name__)


class Pipeline:
    """The jobs of one service. Every method raises ServiceError where Redis does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _redis(self) -> Redis:
        return connect(self._settings)  # when first needed: job.json can be read without

    @cached_property
    def _records(self) -> Records:
        return Records(self._redis)

    def submit(self, spec: JobSpec) -> str:
        """Queue a job and return its id, such as `hi-1a2b3c4d`.

        Raises UsageError or CorpusError for a corpus that is not there or of another language.
        Whatever fails, nothing stays queued: folder and record are withdrawn.
        """
        changes = {"corpus": _checked_corpus(spec), "base_model": _absolute(spec.base_model)}
        spec = spec.model_copy(update=changes)
        job_id = f"{spec.language.lower()}-{secrets.token_hex(4)}"
        place = job_place(self._settings, job_id)
        record = JobRecord(
            id=job_id,
            language=spec.language,
            created_at=time.time(),
            corpus=spec.corpus,
            base_model=spec.base_model,
            folder=place,
            stages=new_stages(),
        )
        with service_errors(self._settings):
            self._redis.ping()  # before anything is written
        try:
            put_spec(place, spec.model_dump(mode="json"))
            with service_errors(self._settings):
                self._records.create(record)
            _send(record, self._settings)
        except BaseException:  # Ctrl-C, too, leaves nothing half submitted
            self._withdraw(record)
            raise
        return job_id

    def load(self, job_id: str, mirrored: bool = True) -> JobRecord:
        """The record of a job; from job.json where Redis is gone or forgot, if `mirrored`. Raises
        JobNotFoundError.
        """
        _check_id(job_id)
        try:
            with service_errors(self._settings):
                return self._records.load(job_id)
        except (ServiceError, JobNotFoundError):
            found = read_record(self._settings, job_id) if mirrored else None
            if found is None:
                raise
            return found

    def newest(self, limit: int = 20) -> list[JobRecord]:
        """The newest `limit` jobs, newest first."""
        with service_errors(self._settings):
            return self._records.newest(limit)

    def unknown(self) -> list[str]:
        """Jobs that have a folder here, where Redis has no record at all: it lost its data."""
        with service_errors(self._settings):
            if self._records.newest(1):
                return []
        return recorded_ids(self._settings)

    def cancel(self, job_id: str) -> str:
        """Stop a job, keeping its checkpoints. A queued stage is cancelled at once, a running one
        by its worker; returns `cancelled` or `cancelling`. Raises JobNotFoundError, and UsageError
        for a job that has succeeded or failed.
        """
        _check_id(job_id)
        with service_errors(self._settings):
            answer = self._records.cancel(job_id)
        if answer not in ("cancelled", "cancelling"):
            raise UsageError(
                f"job: {job_id} has {answer}; only a queued or running job is cancelled"
            )
        return answer

    def retry(self, job_id: str) -> None:
        """Go on with a failed or cancelled job from its first unfinished stage. Raises
        JobNotFoundError, and UsageError for a job in any other state.
        """
        _check_id(job_id)
        with service_errors(self._settings):
            answer = self._records.retry(job_id)
            if answer != "retried":
                raise UsageError(
                    f"job: {job_id} is {answer}; only a failed or cancelled job is retried"
                )
            record = self._records.load(job_id)
        try:
            _send(record, self._settings)
        except ServiceError as error:  # what is queued and has no message, a worker finds
            logger.warning("%s", error)

    def workers(self) -> dict[str, int]:
        """How many live workers each queue has."""
        with service_errors(self._settings):
            return {queue: len(living(self._redis, queue)) for queue in QUEUE_NAMES}

    def _withdraw(self, record: JobRecord) -> None:
        """Take back a job that was not sent; a message that did go out finds no record."""
        withdraw(record.folder)
        try:
            with service_errors(self._settings):
                self._records.delete(record.id)
        except ServiceError:
            return  # Redis is gone; without its folder the job cannot run anyway


def describe(record: JobRecord) -> dict[str, Any]:
    """What `lorajob status JOB --json` prints: a contract for scripts."""
    stages = {
        name: stage.model_dump(mode="json", exclude={"fence", "owner", "lease"})
        for name, stage in record.stages.items()
    }
    return {
        "id": record.id,
        "language": record.language,
        "state": record.state,
        "created_at": record.created_at,
        "corpus": record.corpus,
        "base_model": record.base_model,
        "artifacts": record.folder,
        "cancel_requested": record.cancel_requested,
        "error": record.error,
        "attempts": [attempt.model_dump(mode="json") for attempt in record.ended],
        "stages": stages,
        "metrics": _metrics(record),
    }


def _metrics(record: JobRecord) -> dict[str, dict[str, float]]:
    """Percent, normalised, on the test clips; only what has been measured yet."""
    evaluated = record.stages["evaluate"].result or {}
    converted = record.stages["convert"].result or {}
    scores = {
        "base": evaluated.get("base"),
        "tuned": evaluated.get("tuned"),
        "converted": converted.get("converted"),
    }
    return {
        name: {"wer": score["wer"], "cer": score["cer"]} for name, score in scores.items() if score
    }


def _send(record: JobRecord, settings: Settings) -> None:
    from lorajob.tasks.publish import send  # loads Celery, which looking at jobs does not need

    send(record, settings)


def _checked_corpus(spec: JobSpec) -> str:
    """The corpus as workers will find it: an absolute path, or a url."""
    if is_url(spec.corpus):
        check_remote(spec.corpus)
        return spec.corpus
    corpus = Path(spec.corpus).expanduser().resolve()
    check_corpus(corpus, spec.language)
    return str(corpus)


def _check_id(job_id: str) -> None:
    if not JOB_ID.fullmatch(job_id):
        raise UsageError(f"job: {job_id!r} is not a job id, such as hi-1a2b3c4d")


def _absolute(base_model: str) -> str:
    """A folder as an absolute path, since workers run elsewhere; a Hub id stays as it is."""
    path = Path(base_model).expanduser()
    return str(path.resolve()) if path.is_dir() else base_model
