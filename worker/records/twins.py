"""Remembers for a day which job was submitted with which spec.

`lorajob:submitted:HASH`, a sorted set with the jobs of a spec by the time of their submission, ends
a day after the last of them. HASH is of the spec alone: name, tags and priority do not count.
"""

import hashlib
import logging
import time
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from lorajob.spec import JobSpec

KEPT_SECONDS = 86_400

logger = logging.getLogger(__name__)


def remember(redis: Redis, spec: JobSpec, job_id: str) -> None:
    """Remember a submission. The job is queued already, so an error is only logged."""
    key, now = _key(spec), time.time()
    try:
        with redis.pipeline(transaction=True) as pipe:
            pipe.zadd(key, {job_id: now})
            pipe.zremrangebyscore(key, 0, now - KEPT_SECONDS)
            pipe.expire(key, KEPT_SECONDS)
            pipe.execute()
    except (RedisError, OSError) as error:
        logger.debug("%s is not remembered: %s", job_id, error)


def earlier(redis: Redis, spec: JobSpec, job_id: str) -> list[str]:
    """The other jobs of this spec, newest first."""
    least = time.time() - KEPT_SECONDS
    found = cast("list[str]", redis.zrevrangebyscore(_key(spec), "+inf", least))
    return [other for other in found if other != job_id]


def _key(spec: JobSpec) -> str:
    digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:32]
    return f"lorajob:submitted:{digest}"
