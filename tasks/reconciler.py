"""The reconciler continues jobs after a worker died, a message was lost or Redis was unavailable.

It is a thread in the main process of every worker; a lock in Redis lets one of them run at a time.
It takes stages whose lease ran out from their owners, sends jobs again whose message is missing,
and fails jobs that were lost too often. The job record is the truth: the claim refuses a surplus
message.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import signals
from redis import Redis
from redis.exceptions import (
    ConnectionError,
    LockError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from lorajob.errors import LorajobError
from lorajob.tasks import broker
from lorajob.tasks.broker import send
from lorajob.tasks.describe import awaited_queue
from lorajob.worker import health, lifecycle
from lorajob.worker.connect import connect
from lorajob.worker.heartbeats import living, new_enough
from lorajob.worker.machine.self_check import Silence
from lorajob.worker.monitoring import tallies
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from lorajob.worker.supervision.faults import first_pause, limit_of
from lorajob.worker.supervision.watcher import RENEWALS_A_LEASE
from lorajob.worker.ticker import Ticker

LOCK = "lorajob:reconciler"
LONGEST_PERIOD_SECONDS = 3.0
AT_ONCE = 100  # most jobs that one turn checks
# All messages are read every SCAN_LEASES leases, even if none seems to be missing (10 min of 90 s).
SCAN_LEASES = 7

logger = logging.getLogger(__name__)


class Reconciler:
    """Checks the records periodically; `turn` is one check."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settings = settings
        self._redis = redis
        self._records = Records(redis, settings.place_of)
        self._lease = settings.lease_seconds
        self._quiet_until = 0.0  # monotonic
        self._expired: set[str] = set()
        self._unheard = False
        self._scanned = time.monotonic()
        self._damaged: set[str] = set()
        self._began: float | None = None  # monotonic: the first answer of this Redis
        self._silence = Silence("reconciler", settings.lease_seconds)

    @property
    def period_seconds(self) -> float:
        """Time between two turns."""
        return min(LONGEST_PERIOD_SECONDS, self._lease / RENEWALS_A_LEASE)

    def turn(self) -> None:
        """Check once, unless another worker holds the lock.

        After Redis was unavailable the reconciler waits for one lease, in which living owners
        renew theirs.
        """
        try:
            seconds = max(30.0, self._lease)
            lock = self._redis.lock(LOCK, timeout=seconds, blocking=False)
            if not lock.acquire():
                if self._redis.pttl(LOCK) > 2000 * seconds:
                    self._redis.delete(LOCK)  # Redis's clock was put back
                return
            try:
                if self._settled():
                    self._each(self._take_over, self._retry, self._send_again)
                    self._silence.worked()
                self._unheard = False
            finally:
                lock.release()
        except LockError:
            logger.info("this turn took longer than its lock; another worker may run one as well")
        except RedisError as error:
            self._quiet_until = time.monotonic() + self._lease
            self._expired.clear()
            if not self._unheard:
                logger.warning("the reconciler waits for Redis: %s", error)
            self._unheard = True
            if not isinstance(error, ConnectionError | TimeoutError):  # then no worker can work
                self._silence.failed(str(error))

    def _each(self, *parts: Callable[[], None]) -> None:
        """Do every part of a turn, also after an error in one that is not of the connection."""
        failed: RedisError | None = None
        for part in parts:
            try:
                part()
            except ResponseError as error:
                failed = failed or error
                logger.error("the reconciler cannot do a part of its work: %s", error)
        if failed is not None:
            raise failed

    def _settled(self) -> bool:
        """Whether Redis has run, and been reachable from here, for at least one lease.

        A Redis that refuses INFO counts as started at the first answer.
        """
        if self._began is None:
            self._began = time.monotonic()
        try:
            started = float(self._redis.info("server")["uptime_in_seconds"])
        except (NoPermissionError, ResponseError, KeyError):
            started = time.monotonic() - self._began
        return started > self._lease and time.monotonic() >= self._quiet_until

    def _take_over(self) -> None:
        """Take the stages whose lease had run out both in this turn and in the last.

        A living owner, for example on a machine that was suspended, has renewed its lease by now.
        """
        expired = self._records.expired(AT_ONCE, self._lease)
        before, self._expired = self._expired, set(expired) - self._expired
        for job_id in before.intersection(expired):
            try:
                answer = self._records.expire(job_id, self._settings.max_losses)
            except (LorajobError, ResponseError) as error:
                self._set_aside(job_id, error)
                continue
            if answer != "held":
                tallies.lease_lost(self._redis)
            logger.info("%s: its worker's lease ran out; it is %s", job_id, answer)
            if answer == "queued":
                self._send(job_id)

    def _retry(self) -> None:
        """Send the jobs whose pause after a failure is over.

        If the live workers of a job's queue are all unfit, that counts as another failure, so that
        a job does not wait for ever on a service of one broken machine.
        """
        for job_id in self._records.retries_due(AT_ONCE):
            try:
                self._retry_one(job_id)
            except (LorajobError, ResponseError) as error:
                self._set_aside(job_id, error)

    def _retry_one(self, job_id: str) -> None:
        record = self._records.load(job_id)
        queue, stage = awaited_queue(record), record.standing.stage
        if queue is None or stage is None:
            self._records.wait_anew(job_id)
            return
        living_names = living(self._redis, queue)
        names = new_enough(self._redis, living_names, record.version)
        if living_names and not names:
            # No worker of the queue reads the job yet, so none has to start a process to say so.
            self._records.decline(job_id, record.version, first_pause(self._settings))
            return
        unfit = health.unfit_workers(self._redis, names)
        losses = [entry for entry in record.ended if entry.stage == stage and entry.kind]
        if not names or len(unfit) < len(names) or not losses:
            self._send(job_id)
            return
        kind = losses[-1].kind or "lost"
        name, found = next(iter(unfit.items()))
        why = f"no worker of the queue {queue} takes work; {name}: {found.why}"
        limit, first = limit_of(kind, self._settings), self._settings.retry_seconds
        answer = self._records.unserved(job_id, kind, why, limit, first)
        logger.warning("%s: %s; it is %s", job_id, why, answer)

    def _set_aside(self, job_id: str, error: Exception) -> None:
        """Leave a job whose record is damaged out of the queues, so that the others go on.

        Raises the error if the record can be read: then Redis refuses what it should do.
        """
        if isinstance(error, ResponseError):
            try:
                self._records.load(job_id)
            except LorajobError as damage:
                error = damage
            except ResponseError as wrong:
                if "WRONGTYPE" not in str(wrong):
                    raise
            else:
                raise error
        self._records.set_aside(job_id, " ".join(str(error).split()))
        if job_id not in self._damaged:
            self._damaged.add(job_id)
            logger.error("%s is set aside; its record cannot be used: %s", job_id, error)

    def _send_again(self) -> None:
        """Send the jobs that have waited for one lease and have no message.

        Messages are read only if there are fewer of them than waiting jobs, or every SCAN_LEASES
        leases. Otherwise a turn costs the same for a thousand jobs as for one.
        """
        overdue = self._records.overdue(self._lease, AT_ONCE)
        lacking = bool(overdue) and broker.waiting(self._redis) < self._records.queued()
        due = time.monotonic() - self._scanned >= SCAN_LEASES * self._lease
        if not lacking and not due:
            return
        known = broker.deliveries(self._redis)
        loaded = {record.id: record for record in self._records.load_many(overdue)}
        checked = []
        for job_id in overdue:
            try:
                record = loaded.get(job_id) or self._records.load(job_id)  # says what is damaged
                stage = record.missing[0]
            except (LorajobError, IndexError, ResponseError) as error:
                self._set_aside(job_id, error)
                continue
            if (stage, job_id) not in known:
                logger.info("%s: its message is missing; it is sent again", job_id)
                self._send(job_id)
            else:
                checked.append(job_id)
        self._records.wait_anew(*checked)  # so that the next turn checks the jobs behind them
        if due:
            self._scanned = time.monotonic()
            self._drop_left_messages()

    def _send(self, job_id: str) -> None:
        try:
            send(self._records.load(job_id), self._settings)
            self._records.wait_anew(job_id)
        except LorajobError as error:
            logger.warning("%s was not sent: %s", job_id, error)

    def _drop_left_messages(self) -> None:
        """Delete messages that killed workers took, once their stage has ended."""
        left = []
        for tag, (stage, job_id) in broker.unacknowledged(self._redis):
            try:
                state = self._records.load(job_id).stages[stage].state
            except (LorajobError, KeyError, ResponseError):
                state = "cancelled"
            if state not in ("queued", "running", "waiting"):
                left.append(tag)
        broker.drop(self._redis, left)


def start(**_: Any) -> None:
    """Start the reconciler in a ready worker's main process.

    A lock that the worker holds when it ends expires.
    """
    settings = Settings()
    reconciler = Reconciler(settings, connect(settings))
    lifecycle.run(Ticker("reconciler", reconciler.period_seconds, reconciler.turn))


signals.worker_ready.connect(start)
