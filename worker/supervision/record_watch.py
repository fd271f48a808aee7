"""The record's side of a running stage: progress in, lease renewed, cancellation out."""

import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from lorajob.worker.heartbeats import stopping
from lorajob.worker.records.records import Claim, Records
from lorajob.worker.supervision.outcome import Progress, StopReason

RENEWALS_A_LEASE = 6  # every 15 s of 90
LONGEST_WATCH_SECONDS = 1.0

logger = logging.getLogger(__name__)


def watch_seconds(lease_seconds: float) -> float:
    """How often a supervisor looks at a record, so that no lease runs out unheard."""
    return min(LONGEST_WATCH_SECONDS, lease_seconds / RENEWALS_A_LEASE)


class RecordWatch:
    """Called by a supervisor again and again; a Redis that is gone stops no stage."""

    def __init__(
        self,
        records: Records,
        claim: Claim,
        lease_seconds: float,
        show: Callable[[Progress], None],
    ) -> None:
        self._records = records
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._show = show
        self._unheard = False

    def __call__(self, progress: Progress | None) -> StopReason | None:
        """Write progress and hear why to stop, if at all."""
        try:
            answer = self._records.touch(self._claim, progress, self._lease_seconds)
            self._unheard = False
        except RedisError as error:
            if not self._unheard:
                logger.warning("%s %s goes on without Redis: %s", *self._name, error)
            self._unheard = True
            return "shutdown" if stopping() else None
        if answer != "held":
            return answer
        if progress is not None:
            self._show(progress)
        return "shutdown" if stopping() else None

    @property
    def _name(self) -> tuple[str, str]:
        return self._claim.job_id, self._claim.stage
