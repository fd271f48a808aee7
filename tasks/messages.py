"""What lies in the broker's queues: which job's which stage has a message on its way."""

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any, cast

from redis import Redis

from lorajob.worker.heartbeats import QUEUE_NAMES

PRIORITY_STEPS = (0, 3, 6, 9)  # kombu's Redis transport: a list each, the first under plain name
PRIORITY_SEPARATOR = "\x06\x16"
PAGE = 500
UNACKED = "unacked"  # kombu's hash of what workers took and did not acknowledge yet
UNACKED_INDEX = "unacked_index"

Delivery = tuple[str, str]  # stage, job id

logger = logging.getLogger(__name__)


def waiting(redis: Redis) -> int:
    """How many messages wait in the queues."""
    with redis.pipeline(transaction=False) as pipe:
        for name in _lists():
            pipe.llen(name)
        return sum(pipe.execute())


def deliveries(redis: Redis) -> set[Delivery]:
    """What the waiting messages deliver; reads them all, a page at a time."""
    found = set()
    for name in _lists():
        start = 0
        while page := cast("list[str]", redis.lrange(name, start, start + PAGE - 1)):
            found |= {delivery for text in page if (delivery := _delivery(text)) is not None}
            start += PAGE
    return found


def unacknowledged(redis: Redis) -> Iterator[tuple[str, Delivery]]:
    """(delivery tag, what it delivers) of the messages that some worker took.

    A worker that was killed leaves its own behind for the week of the visibility timeout.
    """
    for tag, text in redis.hscan_iter(UNACKED, count=PAGE):
        try:
            delivery = _delivery(json.loads(text)[0])
        except (ValueError, LookupError, TypeError):
            delivery = None
        if delivery is not None:
            yield tag, delivery


def drop(redis: Redis, tags: list[str]) -> None:
    """Forget messages that were taken and never acknowledged; their owner's own late
    acknowledgement finds nothing, which is no error.
    """
    if tags:
        with redis.pipeline(transaction=True) as pipe:
            pipe.hdel(UNACKED, *tags)
            pipe.zrem(UNACKED_INDEX, *tags)
            pipe.execute()


def _lists() -> list[str]:
    return [
        f"{queue}{PRIORITY_SEPARATOR}{step}" if step else queue
        for queue in QUEUE_NAMES
        for step in PRIORITY_STEPS
    ]


def _delivery(message: str | dict[str, Any]) -> Delivery | None:
    """Stage and job of a message; None for what is not ours."""
    try:
        fields: dict[str, Any] = json.loads(message) if isinstance(message, str) else message
        stage = fields["headers"]["task"].removeprefix("lorajob.")
        args, _, _ = json.loads(base64.b64decode(fields["body"]))
        return stage, str(args[0])
    except (ValueError, LookupError, TypeError, AttributeError):
        logger.debug("a message in the queue is not one of lorajob's")
        return None
