"""The four Celery tasks. Each claims its stage, supervises it and commits; nothing else.

Only the delivery that commits a stage returns normally, so that Celery sends the next one of the
chain. Every other raises Ignore, which sends nothing, or StageFailed, which ends the chain.
"""

import logging
from pathlib import Path
from typing import Any

from celery import Task
from celery.exceptions import Ignore
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from lorajob.errors import ServiceError
from lorajob.jobdir import JobDir
from lorajob.tasks.publish import send
from lorajob.worker.app import QUEUES, app
from lorajob.worker.connect import connect
from lorajob.worker.records import Claim, JobRecord, Records, Refusal
from lorajob.worker.settings import Settings
from lorajob.worker.supervisor import Committed, Failed, Outcome, Progress, Stopped, supervise
from lorajob.worker.watch import RecordWatch

logger = logging.getLogger(__name__)


class StageFailed(Exception):
    """A stage failed; the message is the record's."""


STAGE = {"bind": True, "throws": (StageFailed,)}


@app.task(name="lorajob.preprocess", **STAGE)  # type: ignore[untyped-decorator]
def preprocess(self: Task, job_id: str) -> dict[str, Any]:
    return run_stage(self, job_id, "preprocess")


@app.task(name="lorajob.train", **STAGE)  # type: ignore[untyped-decorator]
def train(self: Task, job_id: str) -> dict[str, Any]:
    return run_stage(self, job_id, "train")


@app.task(name="lorajob.evaluate", **STAGE)  # type: ignore[untyped-decorator]
def evaluate(self: Task, job_id: str) -> dict[str, Any]:
    return run_stage(self, job_id, "evaluate")


@app.task(name="lorajob.convert", **STAGE)  # type: ignore[untyped-decorator]
def convert(self: Task, job_id: str) -> dict[str, Any]:
    return run_stage(self, job_id, "convert")


def run_stage(task: Task, job_id: str, stage: str) -> dict[str, Any]:
    """Claim, supervise, commit. Returns the stage's result.

    Raises Ignore for a delivery that has nothing to do or did not finish, StageFailed where the
    stage failed.
    """
    settings = Settings()
    records = Records(connect(settings, patient=True))
    claim = records.claim(job_id, stage, task.request.hostname, settings.lease_seconds)
    if isinstance(claim, Refusal):
        logger.info("%s %s is not run by this delivery: %s", job_id, stage, claim.reason)
        raise Ignore(claim.reason)
    record = records.load(job_id)

    def publish(progress: Progress) -> None:
        show_progress(task, record, stage, progress)

    try:
        outcome: Outcome = supervise(
            stage,
            JobDir(Path(record.folder)),
            claim.fence,
            RecordWatch(Records(connect(settings)), claim, settings.lease_seconds, publish),
            grace_seconds=settings.grace_seconds,
            worker=task.request.hostname,
            gpu=QUEUES[stage] == "gpu",
        )
    except OSError as error:  # its folder cannot be written here, or no process be started
        outcome = Failed("files", f"stage {stage} on {task.request.hostname}: {error}")
    if isinstance(outcome, Stopped) and outcome.reason == "shutdown":
        give_back(records, claim, settings)
    return settle(records, claim, outcome)


def settle(records: Records, claim: Claim, outcome: Outcome) -> dict[str, Any]:
    """Write the outcome to the record; raise unless this delivery committed the stage."""
    if isinstance(outcome, Committed):
        answer = records.commit(claim, outcome.result)
        if answer != "settled":
            raise Ignore(answer)
        return outcome.result
    if isinstance(outcome, Stopped):
        if outcome.reason == "cancelled":
            records.cancelled(claim)
        raise Ignore(outcome.reason)
    message = outcome.message
    if not records.fail(claim, message):
        raise Ignore("lost")
    kind = outcome.kind if isinstance(outcome, Failed) else "crash"
    raise StageFailed(f"{claim.job_id} {claim.stage} ({kind}): {message}")


def give_back(records: Records, claim: Claim, settings: Settings) -> None:
    """Queue a stage again that a stopping worker could not finish, and send it to another.

    Unsent, it stays queued in its record.
    """
    if not records.release(claim):
        return
    record = records.load(claim.job_id)
    if record.ended:  # its cancel came while the worker stopped
        return
    try:
        send(record, settings)
    except ServiceError:
        logger.exception("%s is queued in its record, but no message was sent", record.id)


def show_progress(task: Task, record: JobRecord, stage: str, progress: Progress) -> None:
    """Mirror progress to Celery's state and to Flower, which shows an event's `result`."""
    meta = {"language": record.language, "stage": stage, **progress}
    try:
        task.update_state(state="PROGRESS", meta=meta)
        task.send_event("task-progress", retry=False, result=_line(meta))
    except (KombuError, RedisError, OSError) as error:
        logger.info("%s %s: progress was not shown: %s", record.id, stage, error)


def _line(meta: dict[str, Any]) -> str:
    parts = [f"{meta['language']} {meta['stage']} {meta.get('step')}/{meta.get('total')}"]
    if (loss := meta.get("loss")) is not None:
        parts.append(f"loss {loss:.3f}")
    if (eta := meta.get("eta_seconds")) is not None:
        parts.append(f"{eta:.0f} s left")
    return ", ".join(parts)
