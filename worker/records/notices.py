"""The ends of jobs that are reported, and their deliveries to the channels of a service.

The transition that ends a job adds a notice to a list, if a worker has asked for notices within
the last week. A webhook that is set up later therefore gets no notices of old jobs.

A worker turns each notice into one delivery for each channel. A delivery stays in Redis until it
was accepted or given up. The worker that takes one holds it for a while; if it dies meanwhile,
another worker takes it. So a delivery may arrive twice, but none is lost.
"""

import logging
from collections.abc import Sequence
from typing import cast

from pydantic import BaseModel, ConfigDict
from redis import Redis

KEY = "lorajob:notices"  # `JOB STATE REVISION`, newest first; transitions.lua fills it
WANTED = "lorajob:notices:wanted"  # exists while a worker takes notices
WANTED_SECONDS = 7 * 86_400
DELIVERIES = "lorajob:deliveries"
HOLD_SECONDS = 60  # a delivery that was taken for this long is taken again

logger = logging.getLogger(__name__)

# Moves all notices to the sorted sets of the channels, where each is due at once. A channel that no
# worker serves any more is forgotten after the given seconds.
PLAN = """
local time = redis.call('TIME')
while true do
    local notice = redis.call('RPOP', KEYS[1])
    if not notice then return end
    for channel = 2, #KEYS do
        redis.call('ZADD', KEYS[channel], time[1], notice)
        redis.call('EXPIRE', KEYS[channel], ARGV[1])
    end
end
"""
# Returns the notice that is due for the longest time, what is kept about it, and Redis's clock in
# seconds. No other worker gets it for the given seconds.
TAKE = """
local now = redis.call('TIME')[1]
local notice = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
if not notice then return nil end
redis.call('ZADD', KEYS[1], now + ARGV[1], notice)
return {notice, redis.call('HGET', KEYS[2], notice) or '', now}
"""
# Keeps a delivery for the given seconds from now, unless it is over.
KEEP = """
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return end
local now = redis.call('TIME')[1]
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
"""


class Parcel(BaseModel):
    """What Redis keeps about a delivery: the same at every try, but for `tries`."""

    model_config = ConfigDict(frozen=True)

    id: str = ""  # a receiver recognizes repeated deliveries by it
    body: str = ""
    since: float = 0  # of the first try, by Redis's clock; 0: it was not tried yet
    tries: int = 0


class Delivery(BaseModel):
    """A job has ended, and `channel` gets a message. `revision` distinguishes its ends.

    A job has several ends if it was retried.
    """

    model_config = ConfigDict(frozen=True)

    channel: str
    job_id: str
    state: str
    revision: str
    kept: Parcel
    now: float  # when it was taken, by Redis's clock

    @property
    def notice(self) -> str:
        """The entry of the list that it came from."""
        return f"{self.job_id} {self.state} {self.revision}"


def want(redis: Redis) -> None:
    """Keep notices for the next WANTED_SECONDS."""
    redis.set(WANTED, "1", ex=WANTED_SECONDS)


def plan(redis: Redis, channels: Sequence[str]) -> None:
    """Turn all notices into deliveries to the channels."""
    redis.register_script(PLAN)([KEY, *map(_due, channels)], [WANTED_SECONDS])


def take(redis: Redis, channel: str) -> Delivery | None:
    """Take the delivery that is due for the longest time; None if none is due.

    The caller tries it, and then calls `put_off` or `finish`.
    """
    script, keys = redis.register_script(TAKE), [_due(channel), _kept(channel)]
    while (found := script(keys, [HOLD_SECONDS])) is not None:
        notice, text, now = cast("tuple[str, str, str]", found)
        try:
            job_id, state, revision = notice.split(" ", 2)
            return Delivery(
                channel=channel,
                job_id=job_id,
                state=state,
                revision=revision,
                kept=Parcel.model_validate_json(text) if text else Parcel(),
                now=float(now),
            )
        except ValueError:  # of another version, or damaged; pydantic's errors are ValueErrors
            logger.error("a notice for the %s is damaged and is dropped: %r", channel, notice[:100])
            _drop(redis, channel, notice)
    return None


def put_off(redis: Redis, delivery: Delivery, kept: Parcel, seconds: float) -> None:
    """Replace what is kept about a delivery. It is due again in `seconds`."""
    keys = [_due(delivery.channel), _kept(delivery.channel)]
    words: list[str | float] = [delivery.notice, kept.model_dump_json(), seconds, WANTED_SECONDS]
    redis.register_script(KEEP)(keys, words)


def finish(redis: Redis, delivery: Delivery) -> None:
    """Remove a delivery, which was accepted or is given up."""
    _drop(redis, delivery.channel, delivery.notice)


def _drop(redis: Redis, channel: str, notice: str) -> None:
    with redis.pipeline(transaction=True) as pipe:
        pipe.zrem(_due(channel), notice)
        pipe.hdel(_kept(channel), notice)
        pipe.execute()


def undelivered(redis: Redis, channel: str) -> int:
    """How many deliveries to a channel are not over."""
    return int(redis.zcard(_due(channel)))


def _due(channel: str) -> str:
    """Sorted set: the notices to deliver, by the time of their next try."""
    return f"{DELIVERIES}:{channel}"


def _kept(channel: str) -> str:
    """Hash: notice -> JSON of Parcel."""
    return f"{DELIVERIES}:{channel}:kept"
