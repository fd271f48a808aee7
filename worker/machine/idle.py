"""Ends a worker that has been idle for long enough.

A thread of the worker's main process checks the tasks that Celery holds and the messages that wait
in Redis. Then it starts the warm shutdown that SIGTERM starts. A stage that was taken at the same
moment saves its checkpoint and is given back.
"""

import logging
import os
import time
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from lorajob.worker.queues import lists_of
from lorajob.worker.ticker import Ticker

IDLE_SECONDS = "LORAJOB_WORKER_IDLE_SECONDS"  # set for a worker by the process that starts it
LOOK_SECONDS = 1.0  # longest time between two looks

logger = logging.getLogger(__name__)


def idle_seconds() -> float | None:
    """The idle time after which this worker ends; None: never."""
    text = os.environ.get(IDLE_SECONDS)
    return float(text) if text else None


class IdleWatch:
    """Calls `end` once when no task ran and no message waited for `seconds`.

    `activity` returns how many messages the worker holds and how many tasks it has begun. If Redis
    does not answer, it may hold work, so the time starts again when Redis is back.
    """

    def __init__(
        self,
        redis: Redis,
        queues: list[str],
        seconds: float,
        activity: Callable[[], tuple[int, int]],
        end: Callable[[], None],
    ) -> None:
        self._redis = redis
        self._lists = lists_of(queues)
        self._seconds = seconds
        self._activity = activity
        self._end = end
        self._since, self._begun = time.monotonic(), activity()[1]
        period = min(LOOK_SECONDS, seconds / 4)
        self.ticker = Ticker("idle", period, self.turn, end_seconds=2 * LOOK_SECONDS)

    def turn(self) -> bool:
        """Look once; False after a call of `end`."""
        held, begun = self._activity()
        if held or begun != self._begun or self._work_waits():
            self._since, self._begun = time.monotonic(), begun
        elif time.monotonic() - self._since >= self._seconds:
            logger.info("nothing to do for %g s: this worker ends", self._seconds)
            self._end()
            return False
        return True

    def _work_waits(self) -> bool:
        try:
            return bool(self._redis.exists(*self._lists))
        except RedisError as error:
            logger.warning("the queues cannot be read: %s", error)
            return True
