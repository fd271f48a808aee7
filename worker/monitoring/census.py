"""Every job's language and state, kept up to date without reading all records each time.

A job that has ended is read once. A job that waits is read again when its time in the queue's
sorted set changes, which every transition causes. Running jobs are read in full, since there are no
more of them than workers. A few of the failed and cancelled jobs are read again in every turn,
since a job may have been retried and have ended again in between.
"""

from collections import deque
from dataclasses import dataclass
from typing import cast

from redis import Redis

from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import INDEX, QUEUED, RUNNING, Records
from lorajob.worker.records.standing import Standing

AGAIN = 200  # ended jobs that are read again in a turn


@dataclass(frozen=True)
class Census:
    """All jobs, oldest first, and the records of those that run."""

    standings: dict[str, Standing]
    running: list[JobRecord]


class CensusTaker:
    """Takes censuses. Each reads only what may have changed since the last."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._records = Records(redis)
        self._known: dict[str, Standing] = {}
        self._waiting: dict[str, float] = {}  # waiting job -> its time in the sorted set
        self._again: deque[str] = deque()  # jobs that may be retried, the next to read first

    def take(self) -> Census:
        """Take a census. Raises RedisError."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrange(INDEX, 0, -1)
            pipe.zrange(QUEUED, 0, -1, withscores=True)
            pipe.zrange(RUNNING, 0, -1)
            ids, waiting, running = pipe.execute()
        waits = dict(cast("list[tuple[str, float]]", waiting))
        runs = set(cast("list[str]", running))
        doubtful = set(self._next_again())
        stale = [
            job_id
            for job_id in cast("list[str]", ids)
            if job_id in doubtful or job_id in runs or not self._holds(job_id, waits)
        ]
        read = self._records.standings(stale)
        known = self._known
        self._known = {
            job_id: read.get(job_id) or known[job_id]
            for job_id in ids
            if job_id in read or job_id in known
        }
        self._waiting = waits
        seen = set(self._again)
        self._again += [i for i in read if i not in seen and _may_be_retried(read[i])]
        records = self._records.load_many(sorted(runs))
        return Census(self._known, [record for record in records if record.state == "running"])

    def _holds(self, job_id: str, waits: dict[str, float]) -> bool:
        """Whether the known standing of a job that does not run can still be true."""
        standing = self._known.get(job_id)
        if standing is None:
            return False
        if job_id in waits:
            return not standing.over and self._waiting.get(job_id) == waits[job_id]
        return standing.over

    def _next_again(self) -> list[str]:
        due = [self._again.popleft() for _ in range(min(AGAIN, len(self._again)))]
        kept = [i for i in due if i in self._known and _may_be_retried(self._known[i])]
        self._again += kept
        return kept


def _may_be_retried(standing: Standing) -> bool:
    return standing.state in ("failed", "cancelled", "rejected")
