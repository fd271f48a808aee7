"""Sending a job's stages to the workers: a chain of immutable signatures, job id and stage only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, chain
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from lorajob.errors import ServiceError
from lorajob.tasks.describe import arguments
from lorajob.worker.app import submitter
from lorajob.worker.connect import redis_url, shown
from lorajob.worker.queues import PRIORITIES, queue_name
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings


def send(record: JobRecord, settings: Settings) -> None:
    """Send a chain of the stages that `record` lacks. Raises ServiceError within seconds."""
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
        raise ServiceError(f"Redis at {shown(url)} does not serve: {error}") from error


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
