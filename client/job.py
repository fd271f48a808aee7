"""One job of a service."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lorajob.client.progress import ProgressLine
from lorajob.client.results import Results
from lorajob.errors import LorajobError, ServiceError
from lorajob.job.jobdir import REPORT, JobDir
from lorajob.job.states import JobState
from lorajob.tasks.jobs import Jobs, waits
from lorajob.worker.artifacts.lookup import find_job
from lorajob.worker.records.record import JobRecord

POLL_SECONDS = 0.5
OUTAGE_SECONDS = 600.0  # waiting ends if Redis stays unavailable for so long


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

    def _load(self, mirrored: bool = True) -> JobRecord:
        return self._jobs.load(self.id, mirrored)

    def _wait_of(self, record: JobRecord) -> str | None:
        """What a queued job waits for, in words."""
        wait = waits(self._jobs, [record]).get(record.id)
        return None if wait is None else str(wait)

    @property
    def record(self) -> JobRecord:
        """All that the service knows about the job."""
        return self._load()

    @property
    def state(self) -> JobState:
        """queued, running, succeeded, failed, cancelled or rejected."""
        return self.record.state

    @property
    def language(self) -> str:
        return self.record.language

    def wait(self, progress: bool = True, timeout: float | None = None) -> "Job":
        """Wait for the end of the job, and return it. `progress` shows a line on standard error.

        Ctrl-C, or the interrupt of a notebook, ends the waiting. The job goes on. Raises
        JobFailedError if the job does not succeed, TimeoutError after `timeout` seconds, and
        ServiceError if Redis stays unavailable for ten minutes.
        """
        line = ProgressLine(self.id, silent=not progress)
        ends = None if timeout is None else time.monotonic() + timeout
        try:
            record = self._follow(line, ends)
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

    def _follow(self, line: ProgressLine, ends: float | None) -> JobRecord:
        last = time.monotonic()  # when Redis answered
        while True:
            try:
                record = self._load(mirrored=False)
                last = time.monotonic()
                if record.over:
                    return record
                self._show(record, line)
            except ServiceError as error:
                if time.monotonic() - last > OUTAGE_SECONDS:
                    raise
                line.note(f"{error}; tried again")
            if ends is not None and time.monotonic() > ends:
                raise TimeoutError(f"{self.id} has not ended in time; it continues")
            time.sleep(POLL_SECONDS)

    def _show(self, record: JobRecord, line: ProgressLine) -> None:
        for name, stage in record.stages.items():
            if stage.state == "running":
                line.show(name, stage.progress)
                return
        if wait := self._wait_of(record):
            line.note(f"waits for {wait}")

    def _fetch_page(self, folder: JobDir) -> bool:
        files = find_job(self.id, self._jobs.settings)
        if not folder.report_path.is_file() and files.location.remote:
            page = files.location.read(REPORT)
            if page is not None:
                folder.report_path.write_bytes(page)
        return folder.report_path.is_file()

    @contextmanager
    def _open(self, *stages: str) -> Iterator[JobDir]:
        files = find_job(self.id, self._jobs.settings)
        with files.local(lambda: self._jobs.load(self.id), *stages) as folder:
            yield folder


_ENDS = {"cancelled": "was cancelled", "rejected": "was rejected"}
