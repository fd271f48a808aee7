"""Sending a job's stages to the workers: a chain of immutable signatures, job id and stage only."""

from celery import chain
from kombu.exceptions import OperationalError

from lorajob.errors import ServiceError
from lorajob.worker.app import QUEUES, app
from lorajob.worker.connect import TIMEOUT_SECONDS
from lorajob.worker.records import JobRecord


def send(record: JobRecord) -> None:
    """Send a chain of the stages that `record` lacks. Raises ServiceError within seconds.

    For a submitter: it hears at once that Redis is gone, where a worker would try for long.
    """
    signatures = [
        app.signature(f"lorajob.{stage}", args=(record.id,), immutable=True, queue=QUEUES[stage])
        for stage in record.missing
    ]
    timeouts = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    options = app.conf.broker_transport_options | timeouts
    try:
        with app.connection_for_write(transport_options=options) as connection:
            chain(signatures, app=app).apply_async(connection=connection, retry=False)
    except (OperationalError, OSError) as error:
        raise ServiceError(f"job {record.id} could not be sent to the workers: {error}") from error
