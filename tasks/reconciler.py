"""The reconciler continues jobs after a worker died, a message was lost or Redis was unavailable.

It is a thread in the main process of every worker; a lock in Redis lets one of them run at a time.
It takes stages whose lease ran out from their owners, sends jobs again whose message is missing,
and fails jobs that were lost too often. The job record is the truth: the claim refuses a surplus
message.
"""

import logging
import time
from typing import Any, cast

from celery import signals
from redis import Redis
from redis.exceptions import LockError, RedisError

from lorajob.errors import LorajobError
from lorajob.tasks import broker
from lorajob.tasks.broker import send
from lorajob.worker import lifecycle
from lorajob.worker.connect import connect
from lorajob.worker.monitoring import tallies
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
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
        self._records = Records(redis)
        self._lease = settings.lease_seconds
        self._quiet_until = 0.0  # monotonic
        self._expired: set[str] = set()
        self._unheard = False
        self._scanned = time.monotonic()

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
            lock = self._redis.lock(LOCK, timeout=max(30.0, self._lease), blocking=False)
            if not lock.acquire():
                return
            try:
                if self._settled():
                    self._take_over()
                    self._send_again()
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

    def _settled(self) -> bool:
        """Whether Redis has run, and been reachable from here, for at least one lease."""
        started = cast("dict[str, int]", self._redis.info("server"))["uptime_in_seconds"]
        return started > self._lease and time.monotonic() >= self._quiet_until

    def _take_over(self) -> None:
        """Take the stages whose lease had run out both in this turn and in the last.

        A living owner, for example on a machine that was suspended, has renewed its lease by now.
        """
        expired = self._records.expired(AT_ONCE)
        before, self._expired = self._expired, set(expired) - self._expired
        for job_id in before.intersection(expired):
            answer = self._records.expire(job_id, self._settings.max_losses)
            if answer != "held":
                tallies.lease_lost(self._redis)
            logger.info("%s: its worker's lease ran out; it is %s", job_id, answer)
            if answer == "queued":
                self._send(job_id)

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
        for job_id in overdue:
            try:
                stage = self._records.load(job_id).missing[0]
            except (LorajobError, IndexError) as error:
                logger.warning("%s waits, but cannot be sent: %s", job_id, error)
                self._records.wait_anew(job_id)
                continue
            if (stage, job_id) not in known:
                logger.info("%s: its message is missing; it is sent again", job_id)
                self._send(job_id)
            else:
                self._records.wait_anew(job_id)  # so that the next turn checks the jobs behind it
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
            except (LorajobError, KeyError):
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
