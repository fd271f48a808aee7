"""Watches a running stage: passes progress to listeners, and returns their reason to stop it."""

import logging
from collections.abc import Sequence

from redis.exceptions import RedisError

from lorajob.worker.records.records import Claim, Records
from lorajob.worker.stopping import stopping
from lorajob.worker.supervision.outcome import Listener, Progress, StopReason

RENEWALS_A_LEASE = 6  # every 15 s for a lease of 90 s
LONGEST_WATCH_SECONDS = 1.0

logger = logging.getLogger(__name__)


class UnreachableError(Exception):
    """A listener could not take the progress. The listeners after it do not get it."""


class Watcher:
    """The listener of `supervise`: passes progress to other listeners, in order.

    Then it checks whether the worker was told to stop.

    A listener that returns a reason to stop, or is unreachable, ends the round. Progress that did
    not reach the record is therefore shown nowhere else.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)

    def hear(self, progress: Progress | None) -> StopReason | None:
        """Pass on progress, or None if there is none. Return a reason to stop, or None."""
        try:
            for listener in self._listeners:
                reason = listener.hear(progress)
                if reason is not None:
                    return reason
        except UnreachableError:
            pass
        return "shutdown" if stopping() else None


class RecordWatch:
    """Writes progress to the record, renews the lease and reads a cancellation."""

    def __init__(self, records: Records, claim: Claim, lease_seconds: float) -> None:
        self._records = records
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._unheard = False

    def hear(self, progress: Progress | None) -> StopReason | None:
        """Write progress and renew the lease.

        Raises UnreachableError if Redis is unavailable; the stage then continues.
        """
        try:
            answer = self._records.touch(self._claim, progress, self._lease_seconds)
        except RedisError as error:
            if not self._unheard:
                claim = self._claim
                logger.warning("%s %s goes on without Redis: %s", claim.job_id, claim.stage, error)
            self._unheard = True
            raise UnreachableError from error
        self._unheard = False
        return None if answer == "held" else answer


def watch_seconds(lease_seconds: float) -> float:
    """The time between two looks at a record, short enough to renew the lease in time."""
    return min(LONGEST_WATCH_SECONDS, lease_seconds / RENEWALS_A_LEASE)
