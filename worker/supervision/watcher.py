"""What watches a running stage: progress is heard in turn, and the first reason to stop counts."""

import logging
from collections.abc import Sequence

from redis.exceptions import RedisError

from lorajob.worker.heartbeats import stopping
from lorajob.worker.records.records import Claim, Records
from lorajob.worker.supervision.outcome import Listener, Progress, StopReason

RENEWALS_A_LEASE = 6  # every 15 s of 90
LONGEST_WATCH_SECONDS = 1.0

logger = logging.getLogger(__name__)


class UnreachableError(Exception):
    """A listener could not take the progress; those after it are not told of it."""


class Watcher:
    """Tells its listeners, in their order, and looks last whether the worker was told to stop.

    A listener that gives a reason to stop, or is unreachable, ends the round: what the record did
    not take is shown nowhere else.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)

    def hear(self, progress: Progress | None) -> StopReason | None:
        """Hand on progress, or None for none, and hear why to stop, if at all."""
        try:
            for listener in self._listeners:
                reason = listener.hear(progress)
                if reason is not None:
                    return reason
        except UnreachableError:
            pass
        return "shutdown" if stopping() else None


class RecordWatch:
    """The record's side: progress in, lease renewed, cancellation out."""

    def __init__(self, records: Records, claim: Claim, lease_seconds: float) -> None:
        self._records = records
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._unheard = False

    def hear(self, progress: Progress | None) -> StopReason | None:
        """Write progress and renew the lease. Raises UnreachableError if Redis is unavailable,
        which stops no stage.
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
    """How often a supervisor looks at a record, so that no lease runs out unheard."""
    return min(LONGEST_WATCH_SECONDS, lease_seconds / RENEWALS_A_LEASE)
