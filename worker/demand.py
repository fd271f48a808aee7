"""What asks for workers: the jobs that wait for a kind of queue, and those that run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from redis import Redis

from lorajob.job.jobdir import STAGES
from lorajob.worker.queues import QUEUES
from lorajob.worker.records.records import QUEUED, RUNNING

CHUNK = 200  # records asked for at a time


@dataclass(frozen=True)
class Demand:
    """Jobs whose stage waits, each as the GB of card it needs (0: any), and the node names that
    run one now.
    """

    waiting: tuple[int, ...]
    running: tuple[str, ...]


def demand(redis: Redis, kind: str, enough: int | None, largest_gb: float | None = None) -> Demand:
    """What waits for and runs on `kind`; of what waits, no more than `enough` jobs are looked for.

    Jobs that need more than a card of `largest_gb` are another machine's.
    """
    waiting: list[int] = []
    for stage, states in _stages(redis, QUEUED):
        needed = int(states["memory_class"] or 0) if kind == "gpu" else 0
        fits = largest_gb is None or needed <= largest_gb
        if QUEUES[stage] == kind and states[f"{stage}.state"] == "queued" and fits:
            waiting.append(needed)
            if len(waiting) == enough:
                break
    running = [
        (states[f"{stage}.worker"] or "").partition("@")[0]
        for stage, states in _stages(redis, RUNNING)
        if QUEUES[stage] == kind and states[f"{stage}.state"] == "running"
    ]
    return Demand(tuple(waiting), tuple(running))


def _stages(redis: Redis, index: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    """The stage that each job of a sorted set is at, and its fields, newest first."""
    names = ["memory_class"]
    names += [f"{stage}.{field}" for stage in STAGES for field in ("state", "worker")]
    start = 0
    while ids := cast("list[str]", redis.zrevrange(index, start, start + CHUNK - 1)):
        with redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(f"lorajob:job:{job_id}", names)
            rows = pipe.execute()
        for row in rows:
            fields = dict(zip(names, row, strict=True))
            ahead = [stage for stage in STAGES if fields[f"{stage}.state"] != "succeeded"]
            if ahead:
                yield ahead[0], fields
        start += CHUNK
