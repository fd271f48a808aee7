"""The list of ended jobs in Redis, which a worker takes to send notifications.

The transition that ends a job adds a notice to the list, if a worker has asked for notices within
the last week. A webhook that is set up later therefore gets no notices of old jobs.
"""

from dataclasses import dataclass
from typing import cast

from redis import Redis

KEY = "lorajob:notices"  # `JOB STATE REVISION`, newest first; transitions.lua fills it
WANTED = "lorajob:notices:wanted"  # exists while a worker takes notices
WANTED_SECONDS = 7 * 86_400


@dataclass(frozen=True)
class Notice:
    """A job has ended. `revision` distinguishes its ends, since a job may be retried."""

    job_id: str
    state: str
    revision: str


def want(redis: Redis) -> None:
    """Keep notices for the next WANTED_SECONDS."""
    redis.set(WANTED, "1", ex=WANTED_SECONDS)


def take(redis: Redis) -> Notice | None:
    """Remove the oldest notice and return it; None if there is none."""
    text = cast("str | None", redis.rpop(KEY))
    return Notice(*text.split(" ", 2)) if text is not None else None
