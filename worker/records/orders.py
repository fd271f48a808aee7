"""Jobs in other orders than by time, which Redis keeps sorted. A sorted list reads one page only.

    lorajob:order:version  text: which orders there are; missing until a list is sorted
    lorajob:order:changed  set: jobs whose places may be wrong; transitions.lua adds to it
    lorajob:order:places   hash: job -> JSON, order -> the job's text there
    lorajob:order:open     set: the jobs that had not ended when they were placed
    lorajob:order:ORDER    sorted set of texts, all with the score 0: KEY!AGE!ID

Readers put the changed jobs into their places, before they read. So a change of a job costs one
more command, and nothing while no list is sorted.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from redis import Redis
from redis.exceptions import WatchError

from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import INDEX, PAGE, QUEUED, RUNNING, record_key

START = "lorajob:order:"
VERSION, CHANGED = f"{START}version", f"{START}changed"
PLACES, OPEN = f"{START}places", f"{START}open"
LATEST = 1e10  # seconds since the epoch; ages count from here, so that the newest come first
SCRIPT = Path(__file__).with_name("orders.lua")

Load = Callable[[Sequence[str]], list[JobRecord]]
KeysOf = Callable[[JobRecord], Mapping[str, str]]


def place_text(key: str, record: JobRecord) -> str:
    """The text of a job in a sorted set: `key`, then the newest first."""
    return f"{key}!{LATEST - record.created_at:018.6f}!{record.id}"


def id_of(text: str) -> str:
    """The job of such a text."""
    return text.rpartition("!")[2]


def refresh(redis: Redis, orders: Sequence[str], load: Load, keys_of: KeysOf) -> None:
    """Put the jobs into their places that have changed since the last call.

    `keys_of` gives the key of a record in each of `orders`. With other `orders` than before, all
    jobs are placed anew. Jobs of programs that know no orders are found by what they left undone.
    """
    version = ",".join(orders)
    if redis.get(VERSION) != version:
        _begin(redis, version, orders)
    _place(redis, _changed(redis), load, keys_of)
    missing = _uncounted(redis)
    if missing:
        _place(redis, missing, load, keys_of)


def _begin(redis: Redis, version: str, orders: Sequence[str]) -> None:
    """Empty the lists, unless another reader has done so: it may read them by now."""
    with redis.pipeline(transaction=True) as pipe, suppress(WatchError):
        pipe.watch(VERSION)  # type: ignore[no-untyped-call]
        if pipe.get(VERSION) == version:
            return
        pipe.multi()
        pipe.set(VERSION, version)  # from here on, changes are noted
        pipe.delete(PLACES, OPEN, *(START + order for order in orders))
        pipe.execute()


def place_all_anew(redis: Redis) -> None:
    """Let the next `refresh` place all jobs anew."""
    redis.delete(VERSION)


def texts_beyond(redis: Redis, order: str, after: str | None, count: int) -> list[str]:
    """Up to `count` texts of an order behind the text `after`, whose job may be deleted by now."""
    low = "-" if after is None else f"({after}"
    found = redis.zrangebylex(START + order, low, "+", start=0, num=count)
    return cast("list[str]", found)


def _changed(redis: Redis) -> set[str]:
    with redis.pipeline(transaction=True) as pipe:
        pipe.smembers(CHANGED)
        pipe.smembers(OPEN)
        pipe.zrange(QUEUED, 0, -1)
        pipe.zrange(RUNNING, 0, -1)
        changed, placed, queued, running = pipe.execute()
    # A worker of an older version ends and begins jobs without a note.
    return set(changed) | (set(placed) ^ {*queued, *running})


def _uncounted(redis: Redis) -> set[str]:
    """The jobs that are new or deleted without a note, if the numbers differ."""
    if redis.zcard(INDEX) == redis.hlen(PLACES):
        return set()
    known = cast("list[str]", redis.zrange(INDEX, 0, -1))
    return set(known) ^ set(cast("list[str]", redis.hkeys(PLACES)))


def _place(redis: Redis, ids: Iterable[str], load: Load, keys_of: KeysOf) -> None:
    script = redis.register_script(SCRIPT.read_text("utf-8"))
    waiting = sorted(ids)
    for start in range(0, len(waiting), PAGE):
        page = waiting[start : start + PAGE]
        found = {record.id: record for record in load(page)}
        with redis.pipeline(transaction=False) as pipe:
            for job_id in page:
                record = found.get(job_id)
                keys = [CHANGED, PLACES, OPEN, record_key(job_id)]
                script(keys, [job_id, *_arguments(record, keys_of)], client=pipe)
            pipe.execute()


def _arguments(record: JobRecord | None, keys_of: KeysOf) -> tuple[str | int, ...]:
    if record is None:
        return "", 0, "{}"
    texts = {order: place_text(key, record) for order, key in keys_of(record).items()}
    return str(record.revision), int(not record.over), json.dumps(texts, ensure_ascii=False)
