"""Reads the index of jobs by pages, from a place that stays when jobs come or go."""

from typing import cast

from redis import Redis

from lorajob.worker.records.records import INDEX

Place = tuple[float, str]  # when a job was made, and its id


def ids_beyond(
    redis: Redis, place: Place | None, count: int, since: float | None, oldest: bool
) -> list[Place]:
    """The places of up to `count` jobs behind the job at `place`, which may be deleted by now.

    The newest come first, or the `oldest`. Only jobs that were made `since` then.
    """
    low, high = float("-inf") if since is None else since, float("inf")
    if place is not None:
        low, high = (max(low, place[0]), high) if oldest else (low, place[0])
    found: list[Place] = []
    start = 0
    while len(found) < count:
        if oldest:
            page = redis.zrangebyscore(INDEX, low, high, start, count, withscores=True)
        else:
            page = redis.zrevrangebyscore(INDEX, high, low, start, count, withscores=True)
        rows = [(at, job_id) for job_id, at in cast("list[tuple[str, float]]", page)]
        # Jobs of one moment are in the order of their ids.
        found += [row for row in rows if place is None or (row > place if oldest else row < place)]
        start += count
        if len(rows) < count:
            break
    return found[:count]
