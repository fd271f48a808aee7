"""What jobs wait for: a worker that is not there, or their turn at one."""

from collections.abc import Iterable
from dataclasses import dataclass

from lorajob.errors import ServiceError
from lorajob.tasks.jobs import Pipeline
from lorajob.worker.queues import class_of, queue_name
from lorajob.worker.records.record import JobRecord


@dataclass(frozen=True)
class Wait:
    """One job's: the class of queues that holds its next stage, how many live workers serve it, and
    the GB of the card that it needs, None where any will do.
    """

    queue: str
    workers: int
    card_gb: int | None = None

    def __str__(self) -> str:
        if self.workers:
            many = "s" if self.workers > 1 else ""
            return f"its turn at one of {self.workers} worker{many} of the queue {self.queue}"
        card = f", with a card of {self.card_gb} GB or more" if self.card_gb else ""
        return f"a worker of the queue {self.queue}{card}; none is up"

    @property
    def short(self) -> str:
        """The same for a cell of a table."""
        return f"its turn ({self.queue})" if self.workers else f"no {self.queue} worker"


def awaited_queue(record: JobRecord) -> str | None:
    """The queue, without its lane, that holds the job's next stage.

    None while a stage runs or all have ended.
    """
    if record.over or not record.missing:
        return None
    name = record.missing[0]
    if record.stages[name].state not in ("queued", "waiting"):
        return None
    return class_of(queue_name(name, record.lane, record.memory_class))


def waits(pipeline: Pipeline, records: Iterable[JobRecord]) -> dict[str, Wait]:
    """What each job waits for, by its id; nothing of one that runs or is over, and of none where
    Redis does not answer.
    """
    found: dict[str, Wait] = {}
    workers: dict[str, int] = {}
    for record in records:
        queue = awaited_queue(record)
        if queue is None:
            continue
        if queue not in workers:
            try:
                workers[queue] = pipeline.workers(queue)
            except ServiceError:
                return {}
        card = record.memory_class if queue[3:] else None
        found[record.id] = Wait(queue, workers[queue], card)
    return found
