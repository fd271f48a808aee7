"""Batches: the jobs that were submitted together. Each job's own record holds its state."""

from collections.abc import Callable
from typing import Any, cast

from pydantic import BaseModel, ConfigDict
from redis import Redis
from redis.client import Pipeline

from lorajob.errors import JobNotFoundError
from lorajob.worker.queues import Priority

INDEX = "lorajob:batches"  # sorted set: all batches, by the time they were made
SHOWN_BATCHES = 5  # listed in the error about an unknown batch


class JobBatch(BaseModel):
    """One batch, stored in Redis as JSON under `lorajob:batch:ID`."""

    model_config = ConfigDict(frozen=True)

    id: str
    created_at: float  # seconds since the epoch
    user: str | None = None
    priority: Priority = "normal"
    jobs: tuple[str, ...]


class Batches:
    """The batches in one Redis (which must decode responses)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def create(self, batch: JobBatch) -> JobBatch:
        """Store the batch, unless one of that id exists. Returns the stored one."""
        text = batch.model_dump_json()
        if self._redis.set(_batch_key(batch.id), text, nx=True):
            self._redis.zadd(INDEX, {batch.id: batch.created_at})
            return batch
        return self.load(batch.id)

    def load(self, batch_id: str) -> JobBatch:
        """The batch of that id. Raises JobNotFoundError."""
        text = cast("str | None", self._redis.get(_batch_key(batch_id)))
        if text is None:
            newest = ", ".join(batch.id for batch in self.newest(SHOWN_BATCHES))
            there = f"the newest are {newest}" if newest else "no batch exists"
            raise JobNotFoundError(f"batch: {batch_id!r} is unknown; {there}")
        return JobBatch.model_validate_json(text)

    def newest(self, limit: int = 20) -> list[JobBatch]:
        """The newest `limit`, newest first."""
        ids = cast("list[str]", self._redis.zrevrange(INDEX, 0, limit - 1))
        texts = cast(
            "list[str | None]", self._redis.mget([_batch_key(one) for one in ids] or ["-"])
        )
        return [JobBatch.model_validate_json(text) for text in texts if text]

    def restore(self, job: Any) -> None:
        """Put a job whose record was rebuilt back into its batch."""
        new = JobBatch(
            id=job.batch,
            created_at=job.created_at,
            user=job.user,
            priority=job.priority,
            jobs=(job.id,),
        )
        # Repeated, since another process may remove the batch between the two calls.
        while job.id not in self.create(new).jobs:
            self._change(job.batch, lambda jobs: tuple(dict.fromkeys((*jobs, job.id))))

    def remove(self, job_id: str, batch_id: str) -> None:
        """Take a job out of its batch. A batch without jobs is deleted."""
        self._change(batch_id, lambda jobs: tuple(one for one in jobs if one != job_id))

    def _change(self, batch_id: str, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
        """Change the jobs of a batch, if it exists, without losing a concurrent change."""

        def keep(pipe: Pipeline) -> None:
            text = cast("str | None", pipe.get(_batch_key(batch_id)))
            pipe.multi()
            if text is None:
                return
            batch = JobBatch.model_validate_json(text)
            if jobs := change(batch.jobs):
                pipe.set(
                    _batch_key(batch_id), batch.model_copy(update={"jobs": jobs}).model_dump_json()
                )
            else:
                pipe.delete(_batch_key(batch_id))
                pipe.zrem(INDEX, batch_id)

        self._redis.transaction(keep, _batch_key(batch_id))


def _batch_key(batch_id: str) -> str:
    return f"lorajob:batch:{batch_id}"
