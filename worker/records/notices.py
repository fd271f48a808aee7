"""The ends of jobs, in a list in Redis until a worker has told somebody of them.

The transition that ends a job puts it there, whoever made it, and only where some worker has said
within a week that it tells: nobody who sets up a webhook later hears of last month's jobs.
"""

from dataclasses import dataclass
from typing import cast

from redis import Redis

KEY = "lorajob:notices"  # `JOB STATE REVISION`, newest first; transitions.lua fills it
WANTED = "lorajob:notices:wanted"  # is there while somebody takes them
WANTED_SECONDS = 7 * 86_400


@dataclass(frozen=True)
class Notice:
    """A job has ended. `revision` tells its ends apart, for it may be retried."""

    job_id: str
    state: str
    revision: str


def want(redis: Redis) -> None:
    """Have the ends of jobs kept from now on."""
    redis.set(WANTED, "1", ex=WANTED_SECONDS)


def take(redis: Redis) -> Notice | None:
    """The oldest notice; nobody else gets it."""
    text = cast("str | None", redis.rpop(KEY))
    return Notice(*text.split(" ", 2)) if text is not None else None
