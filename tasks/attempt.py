"""Reports on an attempt besides its record.

A thread of its own sends progress to Celery's state and to Flower, because it may have to wait for
Redis. Metrics, a span of the job's trace and log fields describe the attempt as a whole.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from celery import Task
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from lorajob import logs
from lorajob.errors import LorajobError
from lorajob.tasks.describe import progress_line, progress_meta
from lorajob.worker.connect import connect
from lorajob.worker.monitoring import tallies, traces
from lorajob.worker.queues import QUEUES
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim, Records
from lorajob.worker.settings import Settings
from lorajob.worker.supervision.outcome import (
    Committed,
    Crashed,
    Failed,
    Outcome,
    Progress,
    Stopped,
)

END_SECONDS = 2.0
MIRRORS_A_LEASE = 3  # how often job.json is written while a stage runs

logger = logging.getLogger(__name__)


class ProgressMirror:
    """Copies a stage's latest progress to Celery's state and Flower, and the record to job.json.

    It is a listener, and works in a thread of its own while its block runs.

    The supervisor never waits for it. Celery retries for a long time when Redis is unavailable, and
    a store may hang; meanwhile the supervisor must renew the lease and react to a stop.
    """

    def __init__(
        self,
        task: Task,
        job_id: str,
        language: str,
        stage: str,
        records: Records | None = None,
        lease_seconds: float = 90.0,
    ) -> None:
        """`records` write job.json; without them only the progress is shown."""
        # The task's request is local to this thread, so the other thread needs it from here.
        self._app, self._request = task.app, task.request
        self._job_id = job_id
        self._language, self._stage = language, stage
        self._records = records
        self._period = lease_seconds / MIRRORS_A_LEASE
        self._latest: Progress | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def hear(self, progress: Progress | None) -> None:
        """Queue this progress for display. It replaces progress that was not shown yet."""
        if progress is None:
            return
        with self._changed:
            self._latest = progress
            self._changed.notify()

    def __enter__(self) -> "ProgressMirror":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(timeout=END_SECONDS)

    def _run(self) -> None:
        due = time.monotonic() + self._period
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._ended or self._latest is not None,
                    timeout=max(0.0, due - time.monotonic()),
                )
                if self._ended:
                    return
                progress, self._latest = self._latest, None
            if progress is not None:
                self._send(progress)
            if time.monotonic() >= due:
                self._write_record()
                due = time.monotonic() + self._period

    def _write_record(self) -> None:
        """Write job.json, whose lease tells another service that a worker runs the job."""
        try:
            if self._records is not None:
                self._records.mirror_known(self._job_id)
        except (LorajobError, RedisError) as error:
            logger.info("%s: job.json was not renewed: %s", self._job_id, error)

    def _send(self, progress: Progress) -> None:
        meta = progress_meta(self._language, self._stage, progress)
        line = progress_line(self._language, self._stage, progress)
        try:
            request = self._request
            self._app.backend.store_result(request.id, meta, "PROGRESS", request=request)
            with self._app.events.default_dispatcher(hostname=request.hostname) as events:
                events.send("task-progress", uuid=request.id, retry=False, result=line)
        except (KombuError, RedisError, OSError) as error:
            logger.info("%s: progress was not shown: %s", self._job_id, error)


@dataclass
class Attempt:
    """A running attempt; `outcome` is set when its stage has ended."""

    outcome: Outcome | None = None


@contextmanager
def observed(record: JobRecord, claim: Claim, worker: str, settings: Settings) -> Iterator[Attempt]:
    """Count, trace and log the attempt that the block makes. `record` is from before the claim."""
    stage, began, clock = claim.stage, time.time(), time.monotonic()
    redis = connect(settings)  # not patient: metrics must not delay the stage
    if record.stages[stage].state == "running":
        tallies.lease_lost(redis)  # this claim took the stage from an owner whose lease ran out
    else:
        tallies.waited(redis, QUEUES[stage], began - tallies.waiting_since(record, stage))
    seen = Attempt()
    with logs.bound(job=claim.job_id, stage=stage, attempt=claim.attempt, worker=worker):
        try:
            yield seen
        finally:
            name = outcome_name(seen.outcome)
            tallies.attempted(redis, stage, name, time.monotonic() - clock)
            traces.tell_attempt(record, claim, worker, name, began)


def outcome_name(outcome: Outcome | None) -> str:
    """The metrics' label: committed, crashed, a kind of error, or why the attempt was stopped.

    Retryable failures and superseded attempts share the label `lost`, so that stored metrics stay
    comparable.
    """
    match outcome:
        case Failed(kind="retryable" | "superseded") | Stopped(reason="superseded"):
            return "lost"
        case Committed():
            return "committed"
        case Failed(kind=kind):
            return kind
        case Stopped(reason=reason):
            return reason
        case Crashed():
            return "crashed"
    return "unknown"
