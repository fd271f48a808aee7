"""One batch: jobs of several languages that were submitted together."""

from collections.abc import Iterable
from typing import Any

from lorajob.client.job import Job
from lorajob.client.models import ListedJobs
from lorajob.errors import ServiceError
from lorajob.job.states import JobState
from lorajob.tasks.batches import cancel_batch, load_batch, retry_batch
from lorajob.tasks.describe import state_of
from lorajob.tasks.jobs import Jobs, waits
from lorajob.worker.records.batches import JobBatch


class ChangedJobs(list[str]):
    """The ids of the jobs of a batch that were changed."""

    def __init__(self, jobs: Iterable[str], notes: Iterable[str] = ()) -> None:
        super().__init__(jobs)
        self.notes = list(notes)
        """Why others were not."""

    @classmethod
    def read(cls, answer: Any) -> "ChangedJobs":
        """From the answer of a server. An older one gives no notes."""
        return cls(map(str, answer["jobs"]), map(str, answer.get("notes", ())))


class Batch:
    """One batch of a service. Each attribute reads the present state."""

    def __init__(self, jobs: Jobs | None, batch_id: str) -> None:
        """`jobs` is None for a batch that is reached in another way (remote.py)."""
        self.id = batch_id
        self._found = jobs

    @property
    def _jobs(self) -> Jobs:
        if self._found is None:
            raise ServiceError(f"{self.id}: this works only beside the service, not over a url")
        return self._found

    @property
    def record(self) -> JobBatch:
        """What the service knows about the batch. Raises JobNotFoundError."""
        return self.read()[0]

    @property
    def user(self) -> str | None:
        """Who submitted it; None if that is unknown."""
        return self.record.user

    @property
    def jobs(self) -> list[Job]:
        """The jobs that have been queued."""
        return [Job(self._jobs, record.id) for record in self.read()[1].records]

    @property
    def state(self) -> JobState:
        """The state of the whole batch: queued, running, succeeded, failed or cancelled."""
        batch, listing = self.read()
        return state_of(listing.records, len(batch.jobs) - len(listing.records))

    def read(self) -> tuple[JobBatch, ListedJobs]:
        """The batch, and the records of its jobs. Raises JobNotFoundError."""
        batch, records = load_batch(self._jobs, self.id)
        return batch, ListedJobs(records, waits(self._jobs, records))

    def cancel(self) -> ChangedJobs:
        """Stop all jobs that have not ended, and return their ids.

        Raises UsageError if all have.
        """
        found = cancel_batch(self._jobs, self.id)
        return ChangedJobs(found.jobs, found.notes)

    def retry(self, failed_only: bool = False) -> ChangedJobs:
        """Queue failed, rejected and cancelled jobs again, and return their ids.

        With `failed_only`, cancelled ones stay. The result's `notes` say which jobs were refused
        and why. Raises LorajobError if no job can be queued again.
        """
        found = retry_batch(self._jobs, self.id, failed_only)
        return ChangedJobs(found.jobs, found.notes)

    def __repr__(self) -> str:
        return f"Batch({self.id!r})"
