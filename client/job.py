"""One job of a service."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lorajob.client.logs import read_logs
from lorajob.client.models import Note, PromotedModel, say
from lorajob.client.progress import ProgressLine
from lorajob.client.results import Results
from lorajob.errors import JobNotFoundError, LorajobError, ServiceError
from lorajob.job.jobdir import REPORT, STAGES, JobDir
from lorajob.job.states import JobState
from lorajob.storage.store import StoreError
from lorajob.tasks.jobs import Jobs, waits
from lorajob.tasks.promotions import Promotions
from lorajob.tasks.prune import check_not_promoted, copy_of, damage, remove, remove_damaged
from lorajob.tasks.verify import Verified, verify
from lorajob.worker.artifacts.lookup import find_job
from lorajob.worker.records.record import JobRecord
from lorajob.worker.stack.info import StackInfo

POLL_SECONDS = 0.5
OUTAGE_SECONDS = 600.0  # following ends if Redis stays unavailable for so long


class JobFailedError(LorajobError):
    """A job has failed, was cancelled or was rejected. The message says why."""

    kind = "failed"


class Job(Results):
    """One job of a service. Each attribute reads the present state."""

    def __init__(self, jobs: Jobs | None, job_id: str) -> None:
        """`jobs` is None for a job that is reached in another way (remote.py)."""
        super().__init__(job_id)
        self._found = jobs

    @property
    def _jobs(self) -> Jobs:
        if self._found is None:
            raise ServiceError(f"{self.id}: this works only beside the service, not over a url")
        return self._found

    def _load(self) -> JobRecord:
        """The record that the service has."""
        return self._jobs.load(self.id, mirrored=False)

    def copy(self) -> JobRecord | None:
        """The copy of the record in the job's files; None if it is missing or damaged.

        Raises OSError or StoreError for files that cannot be read.
        """
        return copy_of(self._jobs, self.id)

    def _copy(self) -> JobRecord | None:
        """The same, and None for files that cannot be read."""
        try:
            return self.copy()
        except (OSError, StoreError):
            return None

    def load(self, note: Note = say) -> JobRecord:
        """All that the service knows about the job.

        If Redis is unavailable or has lost the record, it is that of the job's job.json, and `note`
        hears so. Without that, raises ServiceError or JobNotFoundError.
        """
        try:
            return self._load()
        except (ServiceError, JobNotFoundError) as error:
            if (copy := self._copy()) is None:
                raise
            note(f"{error}; its job.json is shown instead")
            return copy

    def wait_of(self, record: JobRecord) -> str | None:
        """What the job waits for, in words; None if it runs or has ended."""
        wait = waits(self._jobs, [record]).get(record.id)
        return None if wait is None else str(wait)

    @property
    def record(self) -> JobRecord:
        """All that the service knows about the job, or its job.json if Redis is unavailable."""
        return self.load(lambda _: None)

    @property
    def waits_for(self) -> str | None:
        """What the job waits for, such as a free worker; None if it runs or has ended."""
        return self.wait_of(self.record)

    @property
    def state(self) -> JobState:
        """queued, running, succeeded, failed, cancelled or rejected."""
        return self.record.state

    @property
    def language(self) -> str:
        return self.record.language

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._load().over

    @property
    def damage(self) -> str | None:
        """Why its record cannot be read; None if it can be read or does not exist."""
        return damage(self._jobs, self.id)

    @property
    def user(self) -> str | None:
        """Who submitted it; None if that is unknown."""
        return self._load().user

    def wait(self, progress: bool = True, timeout: float | None = None) -> "Job":
        """Wait for the end of the job, and return it. `progress` shows a line on standard error.

        Ctrl-C, or the interrupt of a notebook, ends the waiting. The job goes on. Raises
        JobFailedError if the job does not succeed, TimeoutError after `timeout` seconds, and
        ServiceError if Redis stays unavailable for ten minutes.
        """
        line = ProgressLine(self.id, silent=not progress)
        ends = None if timeout is None else time.monotonic() + timeout
        try:
            for record in self._follow(line.note, None, ends):
                if not record.over:
                    self._show(record, line)
        except KeyboardInterrupt:
            print(
                f"\nlorajob: {self.id} continues; wait() follows it again, cancel() stops it",
                file=sys.stderr,
            )
            raise
        line.end(record.state)
        if record.state != "succeeded":
            why = f": {record.error}" if record.error else ""
            raise JobFailedError(f"{self.id} {_ENDS.get(record.state, record.state)}{why}")
        return self

    def cancel(self) -> None:
        """Stop the job and keep its checkpoints. Raises UsageError if it has ended."""
        self._jobs.cancel(self.id)

    def retry(self) -> None:
        """Continue a failed or cancelled job from its first unfinished stage."""
        self._jobs.retry(self.id)

    def verify(self) -> Verified:
        """Check the job's files and its base model by their hashes. `faults` is empty if all fit.

        Raises JobNotFoundError.
        """
        record = self.load()
        return verify(find_job(self.id, self._jobs.settings), record, lambda: record)

    def check_not_promoted(self) -> None:
        """Raise UsageError if the job's model is promoted."""
        check_not_promoted(self._jobs, self.id)

    def remove(self, damaged: bool = False) -> None:
        """Delete the record and the files of the job, which must have ended.

        With `damaged`, also a job whose record is damaged. Raises JobNotFoundError, and UsageError
        for a job that is queued or runs, or whose model is promoted.
        """
        if damaged and self.damage is not None:
            remove_damaged(self._jobs, self.id)
        else:
            remove(self._jobs, self.id)

    def promote(self, force: bool = False) -> PromotedModel:
        """Use the job's model for its language in `lorajob serve`.

        Raises UsageError if its gate failed, unless `force` is given, and StageError for a job
        without a model.
        """
        language, promotion = Promotions(self._jobs.settings).promote(self.id, force)
        return PromotedModel(language=language, **promotion.model_dump())

    def follow(self, note: Note = say, first: JobRecord | None = None) -> Iterator[JobRecord]:
        """Yield the record every half second. The last one is that of the ended job.

        `first` is a record that was read just now. While Redis is unavailable, `note` hears so
        once. Raises ServiceError if it stays so for ten minutes.
        """
        yield from self._follow(note, first, None)

    def _follow(
        self, note: Note, first: JobRecord | None, ends: float | None
    ) -> Iterator[JobRecord]:
        record = first or self._through_outage(note, ends)
        while True:
            yield record
            if record.over:
                return
            self._check_time(ends)
            time.sleep(POLL_SECONDS)
            record = self._through_outage(note, ends)

    def _through_outage(self, note: Note, ends: float | None) -> JobRecord:
        """The record, after waiting for Redis.

        It is never job.json's, which does not change while Redis is unavailable.
        """
        deadline, noted = time.monotonic() + OUTAGE_SECONDS, False
        while True:
            try:
                return self._load()
            except ServiceError as error:
                if time.monotonic() > deadline:
                    raise
                if not noted:
                    note(f"{error}; waiting for Redis; the job may still run")
                noted = True
            self._check_time(ends)
            time.sleep(POLL_SECONDS)

    def _check_time(self, ends: float | None) -> None:
        if ends is not None and time.monotonic() > ends:
            raise TimeoutError(f"{self.id} has not ended in time; it continues")

    def _show(self, record: JobRecord, line: ProgressLine) -> None:
        for name, stage in record.stages.items():
            if stage.state == "running":
                took = time.time() - stage.started_at if stage.started_at else None
                line.show(name, stage.progress, took)
                return
        if wait := self.wait_of(record):
            line.note(f"waits for {wait}")

    def logs(
        self, stage: str | None = None, follow: bool = False, note: Note = say
    ) -> Iterator[str]:
        """Yield the text of the logs of all stages, with headings, or of one stage.

        With `follow`, new text comes as it is written, until the job ends or its service is shut
        down. While Redis is unavailable, `note` hears so once; raises ServiceError if it stays so
        for ten minutes.
        """
        files = find_job(self.id, self._jobs.settings)
        watched = _Watched(self, note) if follow else None
        with files.logs(lambda: self.load(note)) as (folder, refresh):
            yield from read_logs(
                folder,
                (stage,) if stage else STAGES,
                refresh,
                lambda: watched is None or watched.ended(),
                lambda: time.sleep(POLL_SECONDS),
            )

    def _page(self) -> bytes | None:
        return find_job(self.id, self._jobs.settings).location.read(REPORT)

    @contextmanager
    def _open(self, *stages: str) -> Iterator[JobDir]:
        files = find_job(self.id, self._jobs.settings)
        with files.local(self.load, *stages) as folder:
            yield folder


class _Watched:
    """Asks whether a job has ended, through outages of Redis and until `lorajob down`."""

    def __init__(self, job: Job, note: Note) -> None:
        self._job, self._note = job, note
        self._away: float | None = None

    def ended(self) -> bool:
        """Whether no more log will come here. Raises ServiceError after a long outage."""
        try:
            over = self._job._load().over
        except JobNotFoundError:
            return self._job.load(self._note).over
        except ServiceError as error:
            settings = self._job._jobs.settings
            if settings.redis_url is None and StackInfo.load(settings.home) is None:
                return self._down()
            if self._away is None:
                self._away = time.monotonic()
                self._note(f"{error}; waiting for Redis")
            if time.monotonic() - self._away > OUTAGE_SECONDS:
                raise
            return False
        self._away = None
        return over

    def _down(self) -> bool:
        """`lorajob down` has ended the service, and with it the stage that wrote the log."""
        record = self._job._copy()
        if record is None or not record.over:
            self._note(
                f"the service is down, and {self._job.id} has not ended; `lorajob up` continues it"
            )
        return True


_ENDS = {"cancelled": "was cancelled", "rejected": "was rejected"}
