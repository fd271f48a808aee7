"""Every job's language and state, kept up to date without reading every record every time.

A job that is over is read once. One that waits is read again when its time in the queue's sorted
set changes, as every transition makes it do. Those that run are read in full: there are no more
than workers. A few of the failed and cancelled are looked at again in every turn, since a job may
have been retried and have ended again since the last.
"""

import logging
from collections import deque
from dataclasses import dataclass
from typing import cast

from redis import Redis

from lorajob.errors import RecordError
from lorajob.worker.records.record import ENDED, JobRecord
from lorajob.worker.records.records import INDEX, QUEUED, RUNNING
from lorajob.worker.records.standing import FIELDS, Standing, standing_of

PAGE = 1000  # records a round trip
AGAIN = 200  # ended jobs that are looked at again in a turn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Census:
    """All jobs, oldest first, and the records of those that run."""

    standings: dict[str, Standing]
    running: list[JobRecord]


class CensusTaker:
    """Takes one census after the other, each from what has changed since the last."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._known: dict[str, Standing] = {}
        self._waiting: dict[str, float] = {}  # time in the sorted set, of those known to wait
        self._again: deque[str] = deque()  # what may be retried, in the order of the next look

    def take(self) -> Census:
        """Raises RedisError."""
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
        read = self._read(stale)
        known = self._known
        self._known = {
            job_id: read.get(job_id) or known[job_id]
            for job_id in ids
            if job_id in read or job_id in known
        }
        self._waiting = waits
        seen = set(self._again)
        self._again += [i for i in read if i not in seen and _may_be_retried(read[i])]
        return Census(self._known, self._records(sorted(runs)))

    def _holds(self, job_id: str, waits: dict[str, float]) -> bool:
        """Whether what is known of a job that does not run can still be true."""
        standing = self._known.get(job_id)
        if standing is None:
            return False
        if job_id in waits:
            return standing.state not in ENDED and self._waiting.get(job_id) == waits[job_id]
        return standing.state in ENDED

    def _next_again(self) -> list[str]:
        due = [self._again.popleft() for _ in range(min(AGAIN, len(self._again)))]
        kept = [i for i in due if i in self._known and _may_be_retried(self._known[i])]
        self._again += kept
        return kept

    def _read(self, ids: list[str]) -> dict[str, Standing]:
        found = {}
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            with self._redis.pipeline(transaction=False) as pipe:
                for job_id in page:
                    pipe.hmget(_key(job_id), FIELDS)
                answers = cast("list[list[str | None]]", pipe.execute())
            for job_id, values in zip(page, answers, strict=True):
                language, state, memory_class, evaluated, *stages = values
                if language is not None and state is not None:
                    found[job_id] = standing_of(language, state, memory_class, evaluated, stages)
        return found

    def _records(self, ids: list[str]) -> list[JobRecord]:
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(_key(job_id))
            answers = cast("list[dict[str, str]]", pipe.execute())
        records = []
        for fields in filter(None, answers):
            try:
                records.append(JobRecord.from_hash(fields))
            except RecordError as error:
                logger.warning("%s", error)
        return [record for record in records if record.state == "running"]


def _may_be_retried(standing: Standing) -> bool:
    return standing.state in ("failed", "cancelled", "rejected")


def _key(job_id: str) -> str:
    return f"lorajob:job:{job_id}"
