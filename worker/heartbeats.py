"""Heartbeats: each worker adds its name to a sorted set of its queue every few seconds, and states
its version.

It also touches files in its temporary folder, for the probe `deploy/alive.py`, which must work
without Redis.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from lorajob import __version__
from lorajob.spec import FORMAT
from lorajob.worker.queues import KINDS, MEMORY_CLASSES_GB, classes_of
from lorajob.worker.ticker import Ticker, nothing

BEAT_SECONDS = 3.0
LIVE_SECONDS = 15  # a worker without a heartbeat for this long counts as dead

# States a worker's version (ARGV[2]) in the hash KEYS[1], and adds its name (ARGV[1]) to the sorted
# sets KEYS[2..] of live workers, by Redis's clock. Both at once: a live worker without a version
# counts as older than every job.
BEAT = """
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for index = 2, #KEYS do
    redis.call('ZADD', KEYS[index], time[1], ARGV[1])
end
"""

# Removes what workers have stated in the hashes KEYS[1] and KEYS[2] if none of the sorted sets
# KEYS[3..] holds a heartbeat of theirs within the last ARGV[1] seconds. A killed worker cannot
# remove it itself. A heartbeat later than now is from before a step back of the clock: it counts
# from now on.
SWEEP = """
local now = tonumber(redis.call('TIME')[1])
local living = {}
for index = 3, #KEYS do
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[index], '(' .. now, '+inf')) do
        redis.call('ZADD', KEYS[index], now, name)
    end
    redis.call('ZREMRANGEBYSCORE', KEYS[index], '-inf', now - 3600)
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[index], now - ARGV[1], '+inf')) do
        living[name] = true
    end
end
for index = 1, 2 do
    for _, name in ipairs(redis.call('HKEYS', KEYS[index])) do
        if not living[name] then
            redis.call('HDEL', KEYS[index], name)
        end
    end
end
"""

# Returns the names of the workers with a heartbeat within the given seconds.
LIVING = """
local time = redis.call('TIME')
return redis.call('ZRANGEBYSCORE', KEYS[1], time[1] - ARGV[1], '+inf')
"""

ALIVE = "alive"  # touched while the worker's process runs
CONNECTED = "connected"  # touched after each heartbeat that reached Redis
PULSE_SECONDS = 3.0

VERSIONS = "lorajob:versions"  # hash: worker -> JSON of a Version
UNFIT = "lorajob:unfit"  # hash: worker -> JSON of an Unfit (health.py)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """What a worker runs: its package's version, and the newest format of jobs that it reads."""

    package: str
    format: int


HERE = Version(__version__, FORMAT)
EARLIER = Version("an earlier version", 0)  # of a worker that does not state it


def versions(redis: Redis, names: Sequence[str]) -> dict[str, Version]:
    """What each of these workers runs."""
    found = {}
    texts = cast("list[str | None]", redis.hmget(VERSIONS, list(names))) if names else []
    for name, text in zip(names, texts, strict=True):
        try:
            said = json.loads(text or "{}")
            found[name] = Version(str(said["package"]), int(said["format"]))
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
            found[name] = EARLIER
    return found


def new_enough(redis: Redis, names: Sequence[str], format: int) -> list[str]:
    """Those of the workers that read jobs of this format."""
    if format <= EARLIER.format or not names:
        return list(names)
    found = versions(redis, names)
    return [name for name in names if found[name].format >= format]


def mixture(found: Mapping[str, Version]) -> str:
    """The workers by version, for a line; "" if all run the same."""
    kinds = sorted(set(found.values()), key=lambda it: (it.format, it.package))
    if len(kinds) < 2:
        return ""
    parts = []
    for kind in kinds:
        names = sorted(name for name in found if found[name] == kind)
        parts.append(f"{kind.package} (format {kind.format}) on {', '.join(names)}")
    return "; ".join(parts)


def living(redis: Redis, queue: str) -> list[str]:
    """The names of the live workers of a kind or class of queues, such as cpu, gpu or gpu24."""
    return cast("list[str]", redis.register_script(LIVING)([_key(queue)], [LIVE_SECONDS]))


def larger_class(redis: Redis, worker: str) -> int:
    """The smallest class of cards, in GB, that live workers serve and `worker` does not; or 0."""
    found = 0
    for size in reversed(MEMORY_CLASSES_GB):
        names = living(redis, f"gpu{size}")
        if worker in names:
            return found
        found = size if names else found
    return found


def heartbeat(
    redis: Redis,
    queues: list[str],
    name: str,
    heard: Callable[[], None] = nothing,  # called after each heartbeat that reached Redis
) -> Ticker:
    """The ticker that sends a worker's heartbeats from its main process.

    It removes the worker's name at its end, and at each turn what dead workers have stated. If
    Redis is unavailable it only logs a line.
    """
    script, sweep = redis.register_script(BEAT), redis.register_script(SWEEP)
    keys = [_key(queue) for queue in queues]
    all_keys = [_key(queue) for kind in KINDS for queue in classes_of(kind)]

    def beat() -> None:
        try:
            script([VERSIONS, *keys], [name, json.dumps(asdict(HERE))])
            heard()
            sweep([VERSIONS, UNFIT, *all_keys], [LIVE_SECONDS])
        except RedisError as error:
            logger.warning("no heartbeat: %s", error)

    def sign_off() -> None:
        try:
            for key in keys:
                redis.zrem(key, name)
            redis.hdel(VERSIONS, name)
        except RedisError as error:
            logger.info("the heartbeat could not sign off: %s", error)

    return Ticker("heartbeat", BEAT_SECONDS, beat, sign_off, 2 * BEAT_SECONDS)


def _key(queue: str) -> str:
    return f"lorajob:workers:{queue}"


def mark(folder: Path, name: str) -> None:
    """Touch the file `name`; an error, such as a full disk, is only logged."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)  # a cleaner of /tmp may have removed it
        (folder / name).touch()
    except OSError as error:
        logger.warning("no sign of life in %s: %s", folder, error)


def pulse(folder: Path) -> Ticker:
    """The ticker that touches ALIVE from a worker's main process."""
    return Ticker("pulse", PULSE_SECONDS, lambda: mark(folder, ALIVE), end_seconds=PULSE_SECONDS)
