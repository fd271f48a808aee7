"""Counters that workers keep in Redis for the metrics.

A histogram is one hash: `LABEL|BOUND` counts the values that are at most BOUND and above the bound
before it, `LABEL|sum` is the sum of all values. A counter that cannot be written is skipped, so
that it never affects a job.
"""

import logging
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError

from lorajob.job.jobdir import STAGES
from lorajob.worker.records.record import JobRecord

WAITS = "lorajob:tally:waits"  # seconds until a queued stage was claimed, by queue
SECONDS = "lorajob:tally:seconds"  # of attempts that committed, by stage
ATTEMPTS = "lorajob:tally:attempts"  # `STAGE|OUTCOME` -> how many
LEASES = "lorajob:tally:leases"  # `lost` -> how many ran out
NOTICES = "lorajob:tally:notices"  # `CHANNEL|OUTCOME` -> how many

WAIT_BOUNDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)
STAGE_BOUNDS = (10, 30, 60, 300, 900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 24 * 3600)
INFINITE = "+Inf"

logger = logging.getLogger(__name__)


@dataclass
class Histogram:
    """Observed seconds: the count in each bucket (not cumulative), and the sum."""

    counts: dict[str, int] = field(default_factory=dict)
    sum: float = 0.0


def waited(redis: Redis, queue: str, seconds: float) -> None:
    """Count a claim of a stage that had waited in `queue` for `seconds`."""
    with _writing(redis) as pipe:
        _observe(pipe, WAITS, queue, seconds, WAIT_BOUNDS)


def attempted(redis: Redis, stage: str, outcome: str, seconds: float) -> None:
    """Count the end of an attempt, and its time if it committed the stage."""
    with _writing(redis) as pipe:
        pipe.hincrby(ATTEMPTS, f"{stage}|{outcome}", 1)
        if outcome == "committed":
            _observe(pipe, SECONDS, stage, seconds, STAGE_BOUNDS)


def lease_lost(redis: Redis) -> None:
    """Count a stage that was taken from an owner whose lease had run out."""
    with _writing(redis) as pipe:
        pipe.hincrby(LEASES, "lost", 1)


def noticed(redis: Redis, channel: str, outcome: str) -> None:
    """Count a notice of a job's end: sent, failed (a try, which is repeated) or undelivered."""
    with _writing(redis) as pipe:
        pipe.hincrby(NOTICES, f"{channel}|{outcome}", 1)


def waiting_since(record: JobRecord, stage: str) -> float:
    """When a queued stage started to wait, in seconds since the epoch.

    That is when the job was made, the stage before it finished or the attempt before it ended,
    whichever is the latest. The time between a failure and its retry counts as waiting.
    """
    before = [record.stages[name].finished_at for name in STAGES[: STAGES.index(stage)]]
    ended = [entry.ended_at for entry in record.ended]
    return max([record.created_at, *(time for time in before if time is not None), *ended])


def read_histograms(hash_: dict[str, str]) -> dict[str, Histogram]:
    """The histograms of such a hash, by label."""
    found: dict[str, Histogram] = {}
    for name, text in hash_.items():
        label, _, bound = name.rpartition("|")
        histogram = found.setdefault(label, Histogram())
        if bound == "sum":
            histogram.sum = float(text)
        else:
            histogram.counts[bound] = int(text)
    return found


def read_all(redis: Redis) -> tuple[dict[str, str], ...]:
    """The hashes WAITS, SECONDS, ATTEMPTS, LEASES and NOTICES."""
    with redis.pipeline(transaction=False) as pipe:
        for key in (WAITS, SECONDS, ATTEMPTS, LEASES, NOTICES):
            pipe.hgetall(key)
        return tuple(cast("list[dict[str, str]]", pipe.execute()))


def _observe(pipe: Pipeline, key: str, label: str, seconds: float, bounds: tuple[int, ...]) -> None:
    index = bisect_left(bounds, seconds)
    bound = str(bounds[index]) if index < len(bounds) else INFINITE
    pipe.hincrby(key, f"{label}|{bound}", 1)
    pipe.hincrbyfloat(key, f"{label}|sum", round(max(0.0, seconds), 3))


@contextmanager
def _writing(redis: Redis) -> Iterator[Pipeline]:
    try:
        with redis.pipeline(transaction=False) as pipe:
            yield pipe
            pipe.execute()
    except (RedisError, OSError) as error:
        logger.info("not counted: %s", error)
