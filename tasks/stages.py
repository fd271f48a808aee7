"""The four Celery tasks. Each claims its stage, supervises it and settles it.

The child commits the files of a stage; then the record is settled. Only the task that settles a
stage as succeeded returns normally, so that Celery sends the next task of the chain. Any other task
raises Ignore, which sends nothing, or StageFailed, which ends the chain.
"""

import logging
import secrets
import time
from dataclasses import replace
from typing import Literal, NoReturn

from celery import Task
from celery.exceptions import Ignore

from lorajob.errors import (
    DISPUTED,
    JobNotFoundError,
    RecordError,
    ServiceError,
    VersionError,
    says_full,
    says_out_of_memory,
)
from lorajob.job.jobdir import JobDir
from lorajob.job.results import StageResult
from lorajob.spec import FORMAT
from lorajob.tasks.attempt import ProgressMirror, observed
from lorajob.tasks.broker import send
from lorajob.tasks.describe import Description, awaited_queue, stage_summary
from lorajob.tasks.words import language_of
from lorajob.worker import health
from lorajob.worker.app import app
from lorajob.worker.artifacts.job_files import JobFiles
from lorajob.worker.artifacts.lookup import open_job
from lorajob.worker.artifacts.signature import unsigned
from lorajob.worker.artifacts.transfer import Errand
from lorajob.worker.connect import connect, retry_redis
from lorajob.worker.heartbeats import larger_class
from lorajob.worker.queues import QUEUES, class_of, queue_name
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim, Records, Refusal
from lorajob.worker.settings import Settings
from lorajob.worker.supervision.faults import Loss, fault, first_pause, limit_of, loss_of
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
    """A stage failed. The message is the error in the record."""


# Celery has no types, so the four decorators below need a `type: ignore`.
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


# A worker asks the broker for messages at least once a second.
HAND_OVER_SECONDS = 3.0


def run_claimed_stage(task: Task, job_id: str, stage: str) -> Description:
    """Load, open files, claim, run, settle. Returns a summary of the stage's result.

    The record holds the whole result. Raises Ignore if the delivery has nothing to do or did not
    finish the stage, and StageFailed if the stage failed.
    """
    settings = Settings()
    records = Records(connect(settings, patient=True), settings.place_of)
    worker = task.request.hostname
    before = load(records, job_id)
    refuse_if_unfit(before, settings)
    refuse_newer(records, before, settings)
    files = open_job(before, settings)
    fit = fit_workers(before, settings)
    at = before.stages[stage]
    if at.state == "queued" and worker in at.avoid and set(fit) - set(at.avoid):
        hand_over(records, before, settings)
    claim = claim_stage(records, job_id, stage, files.last_attempt(stage), worker, settings, fit)
    began = time.monotonic()
    record = retry_redis(lambda: load(records, job_id))  # earlier stages may have ended since
    with observed(before, claim, worker, settings) as seen:
        touched, lease = Records(connect(settings), settings.place_of), settings.lease_seconds
        with ProgressMirror(task, job_id, record.language, stage, touched, lease) as mirror:
            watcher = Watcher([RecordWatch(touched, claim, lease), mirror])
            seen.outcome = outcome = attempt(files, record, claim, watcher, worker, settings)
        note_end(claim, outcome, time.monotonic() - began, settings)
        if isinstance(outcome, Stopped) and outcome.reason == "forgotten":
            files.end_lease(claim)
        result = retry_redis(lambda: settle(records, claim, outcome, worker, settings))
    return stage_summary(stage, result, language_of(before.language).primary_metric)


def load(records: Records, job_id: str) -> JobRecord:
    """The record of a job. Raises Ignore if the job was withdrawn after it was sent, or if its
    record is damaged: the reconciler sets such a job aside.
    """
    try:
        return records.load(job_id)
    except JobNotFoundError:
        raise Ignore("unknown") from None
    except RecordError as error:
        logger.error("%s is not run: %s", job_id, error)
        raise Ignore("damaged") from None


def refuse_if_unfit(record: JobRecord, settings: Settings) -> None:
    """Return a message that came before this worker stopped taking any; then raise Ignore."""
    if health.flagged() is not None:
        publish(record, settings)
        raise Ignore("unfit")


def refuse_newer(records: Records, record: JobRecord, settings: Settings) -> None:
    """Leave a job that is too new for this worker to others; then raise Ignore."""
    if record.version > FORMAT:
        if fit_workers(record, settings):
            hand_over(records, record, settings)
        decline(records, record.id, record.version, settings)


def hand_over(records: Records, record: JobRecord, settings: Settings) -> None:
    """Send a job again and take no message meanwhile. Raises Ignore if another worker took it.

    For a job that others should take, because this worker is too old or has just failed it. After
    a pause alone, this worker could be the first to receive the message each time.
    """
    publish(record, settings)
    until = time.monotonic() + HAND_OVER_SECONDS
    while time.monotonic() < until:
        time.sleep(0.2)
        if awaited_queue(retry_redis(lambda: load(records, record.id))) != awaited_queue(record):
            logger.info("%s is left to another worker, which has taken it", record.id)
            raise Ignore("taken")


def decline(records: Records, job_id: str, version: int, settings: Settings) -> NoReturn:
    """Have the reconciler send a job again after a pause. Raises Ignore."""
    first = first_pause(settings)
    answer = retry_redis(lambda: records.decline(job_id, version, first))
    logger.warning(
        "%s needs a newer worker (format %d; this one reads up to %d): %s",
        *(job_id, version, FORMAT, answer),
    )
    raise Ignore("newer")


def fit_workers(record: JobRecord, settings: Settings) -> list[str]:
    """The workers that can take the job's next stage."""
    queue = awaited_queue(record)
    redis = connect(settings, patient=True)
    if queue is None:
        return []
    return retry_redis(lambda: health.serving(redis, queue, record.version))


def note_end(claim: Claim, outcome: Outcome, seconds: float, settings: Settings) -> None:
    """Tell the worker's self-check how the attempt ended."""
    if isinstance(outcome, Stopped) and outcome.reason != "stalled":
        return
    loss = loss_of(outcome, settings)
    found = loss if isinstance(loss, Loss) else Loss("", "")
    health.note(health.Ended(claim.job_id, found.kind or None, found.why, seconds))


def claim_stage(
    records: Records,
    job_id: str,
    stage: str,
    known: int,
    worker: str,
    settings: Settings,
    fit: list[str],
) -> Claim:
    """Claim a stage. Raises Ignore if the claim is refused.

    `known` is the highest number of an attempt that left files. `fit` are the workers that serve
    the job's queue: if the stage has just failed on this one, another goes first.
    """
    lease, losses, owner = settings.lease_seconds, settings.max_losses, secrets.token_hex(16)
    pause = first_pause(settings)
    claim = retry_redis(
        lambda: records.claim(job_id, stage, worker, lease, losses, owner, known, fit, pause)
    )
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
    """Run the claimed stage as a child process and return how it ended."""
    errand = Errand(watcher, watch_seconds(settings.lease_seconds), settings.grace_seconds)

    def run(job: JobDir, listener: Listener) -> Outcome:
        if (refused := unsigned(files, job, settings.signing_key)) is not None:
            return refused
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
    except OSError as error:  # the folder cannot be written, or no process can be started
        kind = "disk" if says_full(error) else "memory" if says_out_of_memory(error) else "files"
        return Failed(kind, f"stage {claim.stage} on {worker}: {error}")


def settle(
    records: Records, claim: Claim, outcome: Outcome, worker: str, settings: Settings
) -> StageResult:
    """Write the outcome to the record; raise unless the stage has succeeded by this task."""
    match outcome:
        case Committed(result=result):
            answer = records.commit(claim, result)
            if answer != "settled":
                raise Ignore(answer)
            return result
        case Stopped(reason=reason) if reason != "stalled":
            if reason == "shutdown":
                give_back(records, claim, settings)
            elif reason == "cancelled":
                records.cancelled(claim)
            raise Ignore(reason)
        case Failed(kind=VersionError.kind, message=why):  # spec.json says more than the record
            if not records.release(claim, why):
                raise Ignore("superseded")
            decline(records, claim.job_id, FORMAT + 1, settings)
    loss = loss_of(outcome, settings)
    if isinstance(outcome, Failed) and outcome.kind in DISPUTED:
        loss = disputed(records, claim, outcome, worker, settings)
    twice = crashed_elsewhere(records, claim, outcome, worker)
    if twice is not None:
        message, kind = twice, "native"
        if not records.fail(claim, message):
            raise Ignore("superseded")
    elif isinstance(loss, Loss):
        message, kind = loss.why, loss.kind
        larger = larger_card(claim, worker, settings) if kind == "memory" else 0
        fail_retryable(records, claim, loss, settings, larger)
    elif isinstance(outcome, Failed):
        message, kind = outcome.message, outcome.kind
        if not records.fail(claim, message):
            raise Ignore("superseded")
    raise StageFailed(f"{claim.job_id} {claim.stage} ({kind}): {message}")


def disputed(
    records: Records, claim: Claim, outcome: Failed, worker: str, settings: Settings
) -> Loss | Literal["own"]:
    """A loss if another worker that has not tried the stage may find it well, else the job's own.

    The base model or the store of one machine may be another one than those of the others.
    """
    record = records.load(claim.job_id)
    fit = health.serving(
        connect(settings, patient=True), queue_of(record, claim.stage), record.version
    )
    untried = set(fit) - {worker, *record.stages[claim.stage].avoid}
    return Loss(outcome.kind, outcome.message) if untried else "own"


def crashed_elsewhere(records: Records, claim: Claim, outcome: Outcome, worker: str) -> str | None:
    """The error of a stage that crashed at the same place on another worker before; else None.

    Two machines with the same fault at the same place are unlikely: the input causes it.
    """
    if not isinstance(outcome, Crashed) or outcome.place is None:
        return None
    crash = outcome
    for entry in records.load(claim.job_id).ended:
        if entry.stage == claim.stage and entry.why == crash.message and entry.worker != worker:
            return f"{crash.message}; it crashed so on {entry.worker} and on {worker}"
    return None


def larger_card(claim: Claim, worker: str, settings: Settings) -> int:
    """The next larger class of cards, in GB, for a stage that ran out of memory; 0: no such class.

    Only classes with a live worker count. Without one the job stays in its class, where a later
    attempt may find enough memory.
    """
    if QUEUES[claim.stage] != "gpu":
        return 0
    return larger_class(connect(settings, patient=True), worker)


def fail_retryable(
    records: Records, claim: Claim, loss: Loss, settings: Settings, larger: int = 0
) -> None:
    """Queue another attempt after a failure that the job did not cause.

    Returns only if the stage was lost too often and has failed; otherwise raises Ignore.
    """
    record = records.load(claim.job_id)
    redis = connect(settings, patient=True)
    fit = health.serving(redis, queue_of(record, claim.stage), record.version)
    after = fault(loss.kind, settings, fit)
    if larger:
        after = replace(after, first=0.0)  # no need to wait for another card
    limit = limit_of(loss.kind, settings)
    answer = records.fail_retryable(claim, loss.why, limit, larger, after)
    if answer == "failed":
        return
    if answer == "queued":
        publish(records.load(claim.job_id), settings)
    raise Ignore(answer)  # `later`: the reconciler sends the job after a pause


def queue_of(record: JobRecord, stage: str) -> str:
    """The class of queues that holds a stage of the job."""
    return class_of(queue_name(stage, record.lane, record.memory_class))


def give_back(records: Records, claim: Claim, settings: Settings) -> None:
    """Queue a stage again that a stopping worker could not finish, and send its job."""
    if not records.release(claim, "its worker was told to stop"):
        return
    record = records.load(claim.job_id)
    if not record.over:  # the job may have been cancelled while the worker stopped
        publish(record, settings)


def publish(record: JobRecord, settings: Settings) -> None:
    """Send a queued job. If that fails, the reconciler sends it later."""
    try:
        send(record, settings)
    except ServiceError as error:
        logger.warning("%s is queued in its record, but not sent: %s", record.id, error)
