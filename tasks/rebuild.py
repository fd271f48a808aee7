"""Rebuilds job records from the jobs' folders, after Redis lost them."""

from dataclasses import dataclass
from typing import Literal

from lorajob.errors import LorajobError
from lorajob.job.jobdir import STAGES, JobDir
from lorajob.spec import FORMAT, JobSpec
from lorajob.tasks.broker import send
from lorajob.worker.artifacts.lookup import find_job, job_place, recorded_ids
from lorajob.worker.connect import connect, service_errors
from lorajob.worker.records import orders
from lorajob.worker.records.batches import Batches
from lorajob.worker.records.damage import damage_of, drop_damaged
from lorajob.worker.records.origin import Origin, make_origin, read_origin
from lorajob.worker.records.record import JobRecord, new_stages
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings


@dataclass(frozen=True)
class Rebuilt:
    """The ids of the rebuilt jobs, and a sentence on each folder that could not be rebuilt.

    `foreign` jobs belong to another service. A worker had renewed its lease of `leased` jobs a
    short time ago. Both were left alone.
    """

    jobs: tuple[str, ...]
    problems: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    leased: tuple[str, ...] = ()


def rebuild(settings: Settings, take_over: bool = False) -> Rebuilt:
    """Make a record for every job folder that has none in Redis, or a damaged one, and queue
    unfinished jobs.

    Jobs of another service, and jobs that a worker seems to run, are left alone unless `take_over`.
    Raises ServiceError if Redis does not answer.
    """
    redis = connect(settings)
    records = Records(redis, settings.place_of)
    jobs, problems = [], []
    left: dict[str, list[str]] = {"foreign": [], "leased": []}
    with service_errors(settings):
        before = read_origin(redis, settings)  # the first rebuilt job gives this Redis an id
        now = float(redis.time()[0])
    for job_id in recorded_ids(settings, "spec.json"):
        with service_errors(settings):
            damaged = damage_of(records, job_id) is not None
            if not damaged and records.known(job_id):
                continue  # its files need not be read
        try:
            why = None if take_over else left_alone(settings, job_id, before, now)
            if why is not None:
                left[why].append(job_id)
                continue
            record = record_there(settings, job_id)
        except (LorajobError, OSError) as error:
            problems.append(f"{job_id}: {' '.join(str(error).split())}")
            continue
        with service_errors(settings):
            if damaged:
                drop_damaged(redis, records, job_id)
            created = records.create(make_origin(redis, settings).mark(record))
            if created is None:
                continue
            if record.batch:
                Batches(redis).restore(record)
        if not created.over:
            send(created, settings)
        jobs.append(record.id)
    with service_errors(settings):
        orders.place_all_anew(redis)
    return Rebuilt(
        tuple(jobs), tuple(problems), foreign=tuple(left["foreign"]), leased=tuple(left["leased"])
    )


def left_alone(
    settings: Settings, job_id: str, origin: Origin, now: float
) -> Literal["foreign", "leased"] | None:
    """Why a job's files are not taken; None if they are.

    Workers renew the lease in job.json while they run a stage. It counts as recent until it ended
    one lease ago; `now` is Redis's time in seconds. Raises OSError, StoreError or RecordError.
    """
    mirrored = find_job(job_id, settings).read_record()
    if mirrored is None:
        return None
    if not origin.has(mirrored):
        return "foreign"
    leases = [it.lease for it in mirrored.stages.values() if it.state == "running" and it.lease]
    recent = any(lease > now - settings.lease_seconds for lease in leases)
    return "leased" if recent and not mirrored.over else None


def record_there(settings: Settings, job_id: str) -> JobRecord:
    """The record that follows from a job's files, in a folder or a store.

    Raises what `record_of` raises.
    """
    with find_job(job_id, settings).outline() as (outlined, pointers):
        record = record_of(outlined)
    stages = {
        name: stage.model_copy(update={"attempt": pointers[name]})
        if stage.state == "succeeded" and name in pointers
        else stage
        for name, stage in record.stages.items()
    }
    return record.model_copy(update={"stages": stages, "folder": job_place(settings, job_id)})


def record_of(job: JobDir) -> JobRecord:
    """The record that follows from a folder's files. They take precedence over its job.json.

    A stage is finished if its files are complete; a stage that ran is queued again. The new
    attempt numbers are higher than all that left files, so that an attempt that still runs is
    superseded. Raises LorajobError for a malformed spec or job.json.
    """
    mirrored = _mirrored(job)
    if mirrored.state == "succeeded" and job.result("convert") is not None:
        # Files of earlier stages may have been removed since.
        return mirrored.model_copy(update={"folder": str(job.root), "id": job.root.name})
    stages = dict(mirrored.stages)
    for name in STAGES:
        stage, result = stages[name], job.result(name)
        changes: dict[str, object] = {"owner": None, "lease": None, "losses": 0}
        changes["attempt"] = max(stage.attempt, job.last_attempt(name)) + 1
        if result is not None:
            changes |= {"state": "succeeded", "result": result, "error": None}
        elif stage.state == "succeeded":  # its files are missing
            changes |= {"state": "waiting", "result": None}
        stages[name] = stage.model_copy(update=changes)
    place = {"stages": stages, "folder": str(job.root), "id": job.root.name}
    return _consistent(mirrored.model_copy(update=place))


def _mirrored(job: JobDir) -> JobRecord:
    """The record in job.json; if that is missing, a new record from the job's spec."""
    try:
        return JobRecord.read(job.record_path)
    except FileNotFoundError:
        spec = JobSpec.load(job.spec_path)
        return JobRecord(
            id=job.root.name,
            language=spec.language,
            created_at=job.spec_path.stat().st_mtime,
            corpus=spec.corpus,
            more_corpora=spec.all_places[1:],
            base_model=spec.base_model,
            folder=str(job.root),
            version=FORMAT,
            stages=new_stages(),
        )


def _consistent(record: JobRecord) -> JobRecord:
    """The record with matching states of job and stages: ended jobs stay, others are queued."""
    if not record.missing:
        return record.model_copy(update={"state": "succeeded", "error": None})
    if record.state in ("failed", "cancelled", "rejected"):
        return record
    state = "cancelled" if record.cancel_requested else "queued"
    stages = dict(record.stages)
    for name in record.missing:
        changes = {"state": state if name == record.missing[0] else "waiting", "progress": None}
        stages[name] = stages[name].model_copy(update=changes)
    return record.model_copy(update={"stages": stages, "state": state, "error": None})
