"""The workers, what they serve, and what waits for them."""

from typing import cast

from pydantic import BaseModel, ConfigDict

from lorajob.tasks.broker import waiting_by_class
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import service_errors
from lorajob.worker.health import unfit_workers
from lorajob.worker.heartbeats import living, versions
from lorajob.worker.queues import KINDS, classes_of
from lorajob.worker.records.records import RUNNING


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class FleetWorker(_Model):
    """A live worker."""

    name: str
    queues: list[str]
    """The classes of queues that it serves; gpu24 needs a card of 24 GB or more."""
    version: str
    """Of lorajob."""
    format: int
    """The newest format of jobs that it reads."""
    unfit: str | None
    """Why it takes no work; null if it does."""
    unfit_since: float | None
    """Seconds since the epoch."""
    jobs: list[str]
    """The jobs whose stages it runs."""


class FleetQueue(_Model):
    """A class of queues."""

    name: str
    waiting: int
    """Stages that wait in it."""
    workers: int
    """Live workers that serve it and take work."""


class Fleet(_Model):
    """The workers and queues of a service."""

    workers: list[FleetWorker]
    queues: list[FleetQueue]
    jobs_queued: int
    jobs_running: int


def read_fleet(jobs: Jobs) -> Fleet:
    """The workers and queues now. Raises ServiceError."""
    classes = [name for kind in KINDS for name in classes_of(kind)]
    with service_errors(jobs.settings):
        redis = jobs.redis
        served = {name: living(redis, name) for name in classes}
        names = sorted({worker for workers in served.values() for worker in workers})
        found, unfit = versions(redis, names), unfit_workers(redis, names)
        running = jobs.records.load_many(cast("list[str]", redis.zrange(RUNNING, 0, -1)))
        waiting = waiting_by_class(redis)
        queued = jobs.records.queued()
    at_work: dict[str, list[str]] = {}
    for record in running:
        for stage in record.stages.values():
            if stage.state == "running" and stage.worker is not None:
                at_work.setdefault(stage.worker, []).append(record.id)
    workers = [
        FleetWorker(
            name=name,
            queues=[queue for queue in classes if name in served[queue]],
            version=found[name].package,
            format=found[name].format,
            unfit=unfit[name].why if name in unfit else None,
            unfit_since=unfit[name].since if name in unfit else None,
            jobs=at_work.get(name, []),
        )
        for name in names
    ]
    queues = [
        FleetQueue(
            name=queue,
            waiting=waiting.get(queue, 0),
            workers=sum(name not in unfit for name in served[queue]),
        )
        for queue in classes
    ]
    return Fleet(workers=workers, queues=queues, jobs_queued=queued, jobs_running=len(running))
