"""Removes records that cannot be read, whatever is in their place in Redis."""

from contextlib import suppress

from redis import Redis
from redis.exceptions import ResponseError

from lorajob.errors import JobNotFoundError, RecordError
from lorajob.worker.records.records import (
    DAMAGED,
    INDEX,
    LATER,
    QUEUED,
    RUNNING,
    Records,
    record_key,
)

OPEN_SETS = "lorajob:open:*"  # the jobs of each lane, batch and user that have not ended


def damage_of(records: Records, job_id: str) -> str | None:
    """Why a record cannot be read; None if it can be read or does not exist."""
    try:
        records.load(job_id)
    except JobNotFoundError:
        return None
    except RecordError as error:
        return str(error)
    return None


def drop_damaged(redis: Redis, records: Records, job_id: str) -> None:
    """Remove a damaged record and all that refers to it. The caller removes or keeps its files."""
    # Fails if something other than a hash is in the record's place.
    with suppress(ResponseError):
        records.delete(job_id)
    for name in redis.scan_iter(match=OPEN_SETS, count=1000):
        redis.srem(name, job_id)
    redis.delete(record_key(job_id))
    for index in (INDEX, QUEUED, RUNNING, LATER):
        redis.zrem(index, job_id)
    redis.hdel(DAMAGED, job_id)
