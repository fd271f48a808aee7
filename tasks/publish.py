"""Sending a job's stages to the workers: a chain of immutable signatures, job id and stage only."""

from celery import chain
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from lorajob.errors import ServiceError
from lorajob.tasks.shown import arguments
from lorajob.worker.app import QUEUES, submitter
from lorajob.worker.connect import redis_url, shown
from lorajob.worker.record import JobRecord
from lorajob.worker.settings import Settings


def send(record: JobRecord, settings: Settings) -> None:
    """Send a chain of the stages that `record` lacks. Raises ServiceError within seconds."""
    url = redis_url(settings)
    app = submitter(url)
    signatures = [
        app.signature(
            f"lorajob.{stage}",
            args=(record.id,),
            immutable=True,
            queue=QUEUES[stage],
            **arguments(record, stage),
        )
        for stage in record.missing
    ]
    try:
        with app.connection_for_write() as connection:
            chain(signatures, app=app).apply_async(connection=connection)
    except (KombuError, OperationalError, RedisError, OSError) as error:
        message = f"Redis at {shown(url)} did not take job {record.id}: {error}"
        raise ServiceError(message) from error
