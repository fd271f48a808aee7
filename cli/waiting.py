"""Whether anybody is there to run the stage that a job waits for."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lorajob.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from lorajob.tasks.jobs import Pipeline
    from lorajob.worker.records.record import JobRecord

CHECK_SECONDS = 5.0


class WorkerWatch:
    """Notes once for a queue that it has no worker; withdraws the job after `timeout` seconds."""

    def __init__(self, pipeline: "Pipeline", timeout: float | None) -> None:
        self._pipeline = pipeline
        self._timeout = timeout
        self._next_check = 0.0
        self._missing_since: float | None = None
        self._noted: set[str] = set()

    def check(self, record: "JobRecord", note: Callable[[str], None]) -> None:
        """Look at the workers, now and then. Raises ServiceError for a job it has withdrawn."""
        from lorajob.tasks.describe import awaited_queue

        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        queue = awaited_queue(record)
        if queue is None or self._served(queue):
            self._missing_since = None
            return
        self._missing_since = self._missing_since or now
        if queue not in self._noted:
            self._noted.add(queue)
            note(f"lorajob: no worker serves the queue {queue}; {_advice(queue)}; waiting")
        if self._timeout is not None:
            self._withdraw_or_hurry(record.id, queue, self._timeout)

    def _served(self, queue: str) -> bool:
        try:
            return self._pipeline.workers(queue) > 0
        except ServiceError:
            return True  # Redis is away for a while: nothing is known of the workers

    def _withdraw_or_hurry(self, job_id: str, queue: str, timeout: float) -> None:
        now = time.monotonic()
        left = (self._missing_since or now) + timeout - now
        if left > 0:
            self._next_check = min(self._next_check, now + left)
            return
        try:
            self._pipeline.cancel(job_id)
        except UsageError:
            return  # it ended this very moment; the next look at the record says how
        raise ServiceError(
            f"{job_id}: withdrawn, for no worker served the queue {queue} within {timeout:g} s; "
            f"{_advice(queue)}"
        )


def _advice(queue: str) -> str:
    return f"start one with `lorajob worker --queue {queue[:3]}` or `lorajob up`"
