"""The broker's queues: sends the stages of a job, and reads which messages are queued.

A job is sent as a chain of immutable signatures, which hold only the job's id and the stage.
"""

import base64
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from celery import Celery, chain
from kombu.exceptions import KombuError, OperationalError
from redis import Redis
from redis.exceptions import RedisError

from lorajob.errors import ServiceError
from lorajob.tasks.describe import arguments
from lorajob.worker.app import submitter
from lorajob.worker.connect import redis_url, shown
from lorajob.worker.queues import PRIORITIES, all_queues, class_of, lists_of, queue_name
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings

PAGE = 500
UNACKED = "unacked"  # kombu's hash of messages that workers took and did not acknowledge yet
UNACKED_INDEX = "unacked_index"  # when each message was taken, by the worker's clock
SKEW_SECONDS = 60.0  # times further in the future than this are ignored
START_SECONDS = 8.0  # from taking a message to the claim: a pool process starts in between

Delivery = tuple[str, str]  # stage, job id

logger = logging.getLogger(__name__)


def waiting(redis: Redis) -> int:
    """How many messages wait in the queues."""
    return sum(_lengths(redis).values())


def waiting_by_class(redis: Redis) -> dict[str, int]:
    """How many messages wait for each class of queues, such as cpu or gpu24."""
    found: dict[str, int] = {}
    for name, length in _lengths(redis).items():
        queue = class_of(name)
        found[queue] = found.get(queue, 0) + length
    return found


def _lengths(redis: Redis) -> dict[str, int]:
    """The number of messages in each of the queues' lists, in one round trip."""
    names = lists_of(all_queues())
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(name)
        return dict(zip(names, pipe.execute(), strict=True))


def deliveries(redis: Redis) -> set[Delivery]:
    """The deliveries of all queued messages, read a page at a time.

    Includes the messages that a worker took within the last START_SECONDS and has not claimed yet.
    """
    seconds, _ = redis.time()
    taken = redis.zrangebyscore(UNACKED_INDEX, seconds - START_SECONDS, seconds + SKEW_SECONDS)
    found = _taken(redis, cast("list[str]", taken))
    for name in (name for name, length in _lengths(redis).items() if length):
        start = 0
        while page := cast("list[str]", redis.lrange(name, start, start + PAGE - 1)):
            found |= {delivery for text in page if (delivery := _delivery(text)) is not None}
            start += PAGE
    return found


def _taken(redis: Redis, tags: list[str]) -> set[Delivery]:
    texts = cast("list[str | None]", redis.hmget(UNACKED, tags)) if tags else []
    return {delivery for text in texts if text and (delivery := _unpacked(text)) is not None}


def unacknowledged(redis: Redis) -> Iterator[tuple[str, Delivery]]:
    """(delivery tag, delivery) of each message that a worker took and did not acknowledge.

    The messages of a killed worker stay for the week of the visibility timeout.
    """
    for tag, text in redis.hscan_iter(UNACKED, count=PAGE):
        if (delivery := _unpacked(text)) is not None:
            yield tag, delivery


def drop(redis: Redis, tags: list[str]) -> None:
    """Delete messages that were taken and never acknowledged.

    A late acknowledgement by their worker then has no effect and is no error.
    """
    if tags:
        with redis.pipeline(transaction=True) as pipe:
            pipe.hdel(UNACKED, *tags)
            pipe.zrem(UNACKED_INDEX, *tags)
            pipe.execute()


def _unpacked(text: str) -> Delivery | None:
    """The delivery of an entry of `unacked`, which holds the message and its origin."""
    try:
        return _delivery(json.loads(text)[0])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _delivery(message: object) -> Delivery | None:
    """Stage and job of a message; None for a message that is not lorajob's."""
    try:
        fields: Any = json.loads(message) if isinstance(message, str) else message
        stage = fields["headers"]["task"].removeprefix("lorajob.")
        args, _, _ = json.loads(base64.b64decode(fields["body"]))
        return stage, str(args[0])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        logger.debug("a message in the queue is not one of lorajob's")
        return None


def send(record: JobRecord, settings: Settings) -> None:
    """Send a chain of the stages that have not succeeded. Raises ServiceError within seconds."""
    with open_sender(settings) as sender:
        sender(record)


@contextmanager
def open_sender(settings: Settings) -> Iterator[Callable[[JobRecord], None]]:
    """`send` over one connection, for many jobs."""
    url = redis_url(settings)
    app = submitter(url)
    try:
        with app.connection_for_write() as connection:
            yield lambda record: _send(record, app, connection, url)
    except (KombuError, OperationalError, RedisError) as error:
        raise ServiceError(f"Redis at {shown(url)} is unavailable: {error}") from error


def _send(record: JobRecord, app: Celery, connection: Any, url: str) -> None:
    signatures = [
        app.signature(
            f"lorajob.{stage}",
            args=(record.id,),
            immutable=True,
            queue=queue_name(stage, record.lane, record.memory_class),
            priority=PRIORITIES[record.priority],
            **arguments(record, stage),
        )
        for stage in record.missing
    ]
    try:
        chain(signatures, app=app).apply_async(connection=connection)
    except (KombuError, OperationalError, RedisError, OSError) as error:
        message = f"Redis at {shown(url)} did not take job {record.id}: {error}"
        raise ServiceError(message) from error
