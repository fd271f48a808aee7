"""The four Celery tasks. Each claims its stage, supervises it and commits; nothing else.

Only the delivery that commits a stage returns normally, so that Celery sends the next one of the
chain. Every other raises Ignore, which sends nothing, or StageFailed, which ends the chain.
"""

import logging
import secrets

from celery import Task
from celery.exceptions import Ignore

from lorajob.errors import JobNotFoundError, ServiceError
from lorajob.job.jobdir import JobDir
from lorajob.job.results import StageResult
from lorajob.tasks.attempt import ProgressMirror, observed
from lorajob.tasks.broker import send
from lorajob.tasks.describe import Description, summary
from lorajob.worker.app import app
from lorajob.worker.artifacts.job_files import JobFiles
from lorajob.worker.artifacts.lookup import open_job
from lorajob.worker.artifacts.transfer import Errand
from lorajob.worker.connect import connect, retry_redis
from lorajob.worker.heartbeats import larger_class
from lorajob.worker.queues import QUEUES
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim, Records, Refusal
from lorajob.worker.settings import Settings
from lorajob.worker.supervision.outcome import (
    Committed,
    Crashed,
    Failed,
    Listener,
    Outcome,
    Stopped,
)
from lorajob.worker.supervision.supervisor import supervise
from lorajob.worker.supervision.watcher import RecordWatch, Watcher, watch_seconds

logger = logging.getLogger(__name__)


class StageFailed(Exception):
    """A stage failed; the message is the record's."""


# Celery has no types: hence the four decorators that mypy is told to pass over.
STAGE = {"bind": True, "throws": (StageFailed,)}


@app.task(name="lorajob.preprocess", **STAGE)  # type: ignore[untyped-decorator]
def preprocess(self: Task, job_id: str) -> Description:
    return run_claimed_stage(self, job_id, "preprocess")


@app.task(name="lorajob.train", **STAGE)  # type: ignore[untyped-decorator]
def train(self: Task, job_id: str) -> Description:
    return run_claimed_stage(self, job_id, "train")


@app.task(name="lorajob.evaluate", **STAGE)  # type: ignore[untyped-decorator]
def evaluate(self: Task, job_id: str) -> Description:
    return run_claimed_stage(self, job_id, "evaluate")


@app.task(name="lorajob.convert", **STAGE)  # type: ignore[untyped-decorator]
def convert(self: Task, job_id: str) -> Description:
    return run_claimed_stage(self, job_id, "convert")


def run_claimed_stage(task: Task, job_id: str, stage: str) -> Description:
    """Load, open files, claim, run, settle. Returns the stage's result in brief; its record has it
    in full.

    Raises Ignore for a delivery that has nothing to do or did not finish, StageFailed if the stage
    failed.
    """
    settings = Settings()
    records = Records(connect(settings, patient=True))
    worker = task.request.hostname
    before = load(records, job_id)
    files = open_job(before, settings)
    claim = claim_stage(records, job_id, stage, files.last_attempt(stage), worker, settings)
    record = retry_redis(lambda: load(records, job_id))  # earlier stages may have ended since
    with observed(before, claim, worker, settings) as seen:
        with ProgressMirror(task, job_id, record.language, stage) as mirror:
            touched = Records(connect(settings))
            watcher = Watcher([RecordWatch(touched, claim, settings.lease_seconds), mirror])
            seen.outcome = outcome = attempt(files, record, claim, watcher, worker, settings)
        result = retry_redis(lambda: settle(records, claim, outcome, worker, settings))
    return summary(stage, result)


def load(records: Records, job_id: str) -> JobRecord:
    """The record of a job. Raises Ignore for a message of a job that was withdrawn."""
    try:
        return records.load(job_id)
    except JobNotFoundError:
        raise Ignore("unknown") from None


def claim_stage(
    records: Records, job_id: str, stage: str, known: int, worker: str, settings: Settings
) -> Claim:
    """The right to run a stage, of which attempt `known` left files. Raises Ignore if it is
    refused.
    """
    limits, owner = (settings.lease_seconds, settings.max_losses), secrets.token_hex(16)
    claim = retry_redis(lambda: records.claim(job_id, stage, worker, *limits, owner, known))
    if isinstance(claim, Refusal):
        logger.info("%s %s is not run by this delivery: %s", job_id, stage, claim.reason)
        raise Ignore(claim.reason)
    return claim


def attempt(
    files: JobFiles,
    record: JobRecord,
    claim: Claim,
    watcher: Watcher,
    worker: str,
    settings: Settings,
) -> Outcome:
    """Run the claimed stage as a child process, however it ends."""
    errand = Errand(watcher, watch_seconds(settings.lease_seconds), settings.grace_seconds)

    def run(job: JobDir, listener: Listener) -> Outcome:
        return supervise(
            claim.stage,
            job,
            claim.attempt,
            listener,
            grace_seconds=errand.grace_seconds,
            stall_seconds=settings.stall_timeout,
            watch_seconds=errand.watch_seconds,
            worker=worker,
            gpu=QUEUES[claim.stage] == "gpu",
        )

    try:
        return files.run(record, claim, errand, run)
    except OSError as error:  # its folder cannot be written here, or no process be started
        return Failed("files", f"stage {claim.stage} on {worker}: {error}")


def settle(
    records: Records, claim: Claim, outcome: Outcome, worker: str, settings: Settings
) -> StageResult:
    """Write the outcome to the record; raise unless this delivery committed the stage."""
    match outcome:
        case Committed(result=result):
            answer = records.commit(claim, result)
            if answer != "settled":
                raise Ignore(answer)
            return result
        case Stopped(reason="stalled"):
            message = f"no step for {settings.stall_timeout:g} s (LORAJOB_STALL_TIMEOUT)"
            fail_retryable(records, claim, message, settings)
        case Crashed(returncode=code, message=message) if code < 0:
            fail_retryable(records, claim, message, settings)
        case Failed(kind="memory", message=message):
            fail_retryable(records, claim, message, settings, larger_card(claim, worker, settings))
        case Failed(kind="retryable" | "superseded", message=message):
            fail_retryable(records, claim, message, settings)
        case Failed(message=message) | Crashed(message=message):
            if not records.fail(claim, message):
                raise Ignore("superseded")
        case Stopped(reason=reason):
            if reason == "shutdown":
                give_back(records, claim, settings)
            elif reason == "cancelled":
                records.cancelled(claim)
            raise Ignore(reason)
    kind = outcome.kind if isinstance(outcome, Failed) else "crash"
    raise StageFailed(f"{claim.job_id} {claim.stage} ({kind}): {message}")


def larger_card(claim: Claim, worker: str, settings: Settings) -> int:
    """For a stage that ran out of memory: the class of cards to which its job goes, 0 for none.

    Only to where some worker lives: who has no larger card may yet find room on this one.
    """
    if QUEUES[claim.stage] != "gpu":
        return 0
    return larger_class(connect(settings, patient=True), worker)


def fail_retryable(
    records: Records, claim: Claim, why: str, settings: Settings, larger: int = 0
) -> None:
    """Have another attempt made, since this one failed through no fault of the job's.

    Returns only where that happened too often, and the stage has failed; raises Ignore elsewhere.
    """
    answer = records.fail_retryable(claim, why, settings.max_losses, larger)
    if answer == "failed":
        return
    if answer == "queued" and records.load(claim.job_id).stages[claim.stage].losses == 1:
        publish(records.load(claim.job_id), settings)
    raise Ignore(answer)  # a second loss in a row waits for the reconciler


def give_back(records: Records, claim: Claim, settings: Settings) -> None:
    """Queue a stage again that a stopping worker could not finish, and send it to another."""
    if not records.release(claim, "its worker was told to stop"):
        return
    record = records.load(claim.job_id)
    if not record.over:  # unless its cancel came while the worker stopped
        publish(record, settings)


def publish(record: JobRecord, settings: Settings) -> None:
    """Send a queued job; unsent, the reconciler finds it in its record."""
    try:
        send(record, settings)
    except ServiceError as error:
        logger.warning("%s is queued in its record, but not sent: %s", record.id, error)
