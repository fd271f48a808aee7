"""What makes jobs go on after a worker died, a message vanished or Redis was away.

A thread in the main process of every worker; a lock in Redis lets one at a time look. It takes
stages whose lease ran out from their owners, sends jobs again whose message is gone, and ends those
that were lost too often. The job record is the truth: a message too many is refused by the claim.
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
AT_ONCE = 100  # jobs looked at in one turn
SCAN_LEASES = 7  # messages are read through so often, even where none seems to lack: 10 min of 90 s

logger = logging.getLogger(__name__)


class Reconciler:
    """Looks through the records again and again; `turn` is one look."""

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
        """Look once, if nobody else does. After Redis was away a whole lease passes first, in
        which living owners renew theirs.
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
            logger.info("this turn took longer than its lock; another worker may look as well")
        except RedisError as error:
            self._quiet_until = time.monotonic() + self._lease
            self._expired.clear()
            if not self._unheard:
                logger.warning("the reconciler waits for Redis: %s", error)
            self._unheard = True

    def _settled(self) -> bool:
        """Whether Redis has been there, and reached from here, for a lease."""
        started = cast("dict[str, int]", self._redis.info("server"))["uptime_in_seconds"]
        return started > self._lease and time.monotonic() >= self._quiet_until

    def _take_over(self) -> None:
        """Take the stages whose lease had run out in the last turn, too: an owner that lives, on a
        machine that was suspended perhaps, has renewed it by now.
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
        """Send the jobs that have waited for a lease and have no message.

        Messages are only read where there are fewer than waiting jobs, or now and then: as long as
        all seems well a turn costs as much for a thousand jobs as for one.
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
                logger.warning("%s waits in vain: %s", job_id, error)
                self._records.wait_anew(job_id)
                continue
            if (stage, job_id) not in known:
                logger.info("%s: its message is gone; it is sent again", job_id)
                self._send(job_id)
            else:
                self._records.wait_anew(job_id)  # so that those behind it get their look too
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
        """Forget what killed workers took, once its stage is neither queued nor running."""
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
    """In a worker's main process, once it serves. A lock that it holds at its end expires."""
    settings = Settings()
    reconciler = Reconciler(settings, connect(settings))
    lifecycle.run(Ticker("reconciler", reconciler.period_seconds, reconciler.turn))


signals.worker_ready.connect(start)
