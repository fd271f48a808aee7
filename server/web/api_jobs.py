"""/api/jobs and /api/batches: submit, list, show, cancel, retry, delete."""

import secrets
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import JSONResponse
from pydantic import JsonValue
from starlette.responses import Response

from lorajob.errors import JobNotFoundError, UsageError
from lorajob.job.jobdir import JOB_ID
from lorajob.server.web.models import (
    BatchChanged,
    BatchCreated,
    BatchRecord,
    BatchSubmission,
    BatchView,
    Changed,
    JobCreated,
    JobList,
    JobSubmission,
    JobTwin,
    JobView,
    RecordList,
)
from lorajob.server.web.requests import requested_spec
from lorajob.server.web.state import Service, User, UserJobs
from lorajob.spec import JobSpec
from lorajob.storage.urls import public, public_spec
from lorajob.tasks.batches import (
    PREFIX,
    cancel_batch,
    check_specs,
    load_batch,
    retry_batch,
    submit_batch,
)
from lorajob.tasks.describe import describe, describe_batch
from lorajob.tasks.jobs import Jobs, waits
from lorajob.tasks.listing import JobPage, Sort, page_jobs, parse_filter
from lorajob.tasks.naming import find_id, name_start, parse_naming
from lorajob.tasks.prune import (
    check_not_promoted,
    check_removable,
    copy_of,
    damage,
    remove,
    remove_damaged,
)
from lorajob.worker.records.names import Naming
from lorajob.worker.records.record import JobRecord

MOST_JOBS = 200  # of a page

router = APIRouter(tags=["jobs"])

JobName = Annotated[
    str,
    Path(description="A job's id, the beginning of its id, its name, or @last", max_length=200),
]
Anyone = Annotated[bool, Query(description="Allow jobs of other users")]


def job_id(job: JobName, jobs: UserJobs) -> str:
    """The id of the job that a path names."""
    return _checked(find_id(jobs, job), f"JOB: {job!r} is a batch; see /api/batches/{job}")


def batch_id(batch: Annotated[str, Path(max_length=200)]) -> str:
    """The id of the batch that a path names."""
    if not batch.startswith(PREFIX) or not JOB_ID.fullmatch(batch):
        raise JobNotFoundError(f"batch: {batch!r} is not a batch's id, such as batch-1a2b3c4d")
    return batch


JobId = Annotated[str, Depends(job_id)]
BatchId = Annotated[str, Depends(batch_id)]


def _checked(found: str, said: str) -> str:
    # A malformed id must never become a path.
    if not JOB_ID.fullmatch(found):
        raise UsageError(f"JOB: {found!r} is not a job's id; ids look like hi-1a2b3c4d")
    if found.startswith(PREFIX):
        raise UsageError(said)
    return found


def one_filter(
    lang: Annotated[str | None, Query(description="Only these languages: hi,mr")] = None,
    state: Annotated[
        list[Literal["queued", "running", "succeeded", "failed", "cancelled", "rejected"]] | None,
        Query(description="Only jobs in one of these states"),
    ] = None,
    tag: Annotated[list[str] | None, Query(description="KEY or KEY=VALUE", max_length=16)] = None,
    since: Annotated[str | None, Query(description="12h, 2d, 8w or 2026-11-30")] = None,
) -> tuple[str | None, tuple[str, ...], tuple[str, ...], str | None]:
    """The filter of a list."""
    return lang, tuple(state or ()), tuple(tag or ()), since


Wanted = Annotated[
    tuple[str | None, tuple[str, ...], tuple[str, ...], str | None], Depends(one_filter)
]
Limit = Annotated[int, Query(ge=1, le=MOST_JOBS)]
After = Annotated[str | None, Query(description="`next` of the page before", max_length=400)]


@router.get("/jobs", response_model=JobList)
def job_list(
    jobs: UserJobs, wanted: Wanted, limit: Limit = 50, sort: Sort = "newest", after: After = None
) -> Response:
    """A page of jobs."""
    page = page_jobs(jobs, parse_filter(*wanted), limit, sort, after)
    waiting = waits(jobs, page.records)
    described = [describe(record, waiting.get(record.id)) for record in page.records]
    return JSONResponse({"jobs": described, "next": page.next, "truncated": False})


@router.get("/records", tags=["client"])
def list_records(
    jobs: UserJobs, wanted: Wanted, limit: Limit = 50, sort: Sort = "newest", after: After = None
) -> RecordList:
    """The same as records, for `lorajob` on other machines."""
    return _records(jobs, page_jobs(jobs, parse_filter(*wanted), limit, sort, after))


def _records(jobs: Jobs, page: JobPage) -> RecordList:
    waiting = waits(jobs, page.records)
    return RecordList(
        records=[public_record(record) for record in page.records],
        waits={name: str(wait) for name, wait in waiting.items()},
        waits_short={name: wait.short for name, wait in waiting.items()},
        next=page.next,
    )


def public_record(record: JobRecord) -> JobRecord:
    """A record whose urls have no secrets."""
    more = tuple(public(place) for place in record.more_corpora)
    changes = {"corpus": public(record.corpus), "base_model": public(record.base_model)}
    return record.model_copy(
        update={**changes, "more_corpora": more, "redis": None, "service": None}
    )


@router.post("/jobs", status_code=201)
def submit_job(body: JobSubmission, jobs: UserJobs, who: User, service: Service) -> JobCreated:
    """Queue a job."""
    naming = _naming(body.name, body.tags)
    spec = requested_spec(jobs.settings, body.spec, body.preset, body.sets)
    spec = name_start(jobs, spec)
    made = jobs.submit(spec, body.priority, naming)
    service.audit.write(who, "submit", made, language=spec.language, corpus=public(spec.corpus))
    twin = jobs.twin(made, spec)
    return JobCreated(id=made, twin=None if twin is None else twin.id)


def _naming(name: str | None, tags: dict[str, str]) -> Naming:
    for key in tags:
        if "=" in key:
            raise UsageError(f"tags: {key!r} has '='; the name of a tag ends there")
    return parse_naming(name, [f"{key}={value}" for key, value in tags.items()])


@router.get("/jobs/{job}", response_model=JobView)
def one_job(job: JobId, jobs: UserJobs) -> Response:
    """One job in full."""
    record = jobs.load(job)
    return JSONResponse(describe(record, waits(jobs, [record]).get(record.id)))


@router.get("/jobs/{job}/record", tags=["client"])
def job_record(job: JobId, jobs: UserJobs) -> RecordList:
    """The job's record, for `lorajob` on other machines."""
    return _records(jobs, JobPage([jobs.load(job)], None))


@router.get("/jobs/{job}/spec")
def job_spec(job: JobId, jobs: UserJobs) -> dict[str, object]:
    """The job's settings. Urls are shown without logins and queries."""
    from lorajob.worker.artifacts.lookup import find_job

    with find_job(job, jobs.settings).local(lambda: jobs.load(job)) as folder:
        return public_spec(JobSpec.load(folder.spec_path)).model_dump(mode="json")


@router.post("/jobs/{job}/twin", tags=["client"])
def job_twin(job: JobId, body: JobSubmission, jobs: UserJobs) -> JobTwin:
    """An earlier job with these settings, submitted at most a day before a job."""
    spec = requested_spec(jobs.settings, body.spec, body.preset, body.sets)
    twin = jobs.twin(job, name_start(jobs, spec))
    return JobTwin(twin=None if twin is None else twin.id)


@router.post("/jobs/{job}/cancel")
def cancel_job(
    job: JobId, jobs: UserJobs, who: User, service: Service, anyone: Anyone = False
) -> Changed:
    """Stop a job and keep its checkpoints."""
    check_own(jobs, jobs.load(job, mirrored=False).user, job, anyone)
    state = jobs.cancel(job)
    service.audit.write(who, "cancel", job)
    return Changed(id=job, state=state)


@router.post("/jobs/{job}/retry")
def retry_job(
    job: JobId, jobs: UserJobs, who: User, service: Service, anyone: Anyone = False
) -> Changed:
    """Continue a failed, rejected or cancelled job from its first unfinished stage."""
    check_own(jobs, jobs.load(job, mirrored=False).user, job, anyone)
    jobs.retry(job)
    service.audit.write(who, "retry", job)
    return Changed(id=job, state="queued")


@router.delete("/jobs/{job}")
def delete_job(
    job: JobId,
    jobs: UserJobs,
    who: User,
    service: Service,
    anyone: Anyone = False,
    damaged: Annotated[bool, Query(description="Also a job whose record is damaged")] = False,
    dry_run: Annotated[bool, Query(description="Only check whether it can be deleted")] = False,
) -> Changed:
    """Delete the files and the record of a job that has ended."""
    why = damage(jobs, job)
    if why is None:
        check_own(jobs, jobs.load(job, mirrored=False).user, job, anyone)
        check_removable(jobs, job)
    else:
        check_not_promoted(jobs, job)
        copy = copy_of(jobs, job)
        check_own(jobs, None if copy is None else copy.user, job, anyone)
        if not damaged:
            raise UsageError(
                f"JOB: {why}; `lorajob rebuild` restores it from the job's files, `lorajob rm "
                f"--yes {job}` deletes both. Nothing was deleted"
            )
    if not dry_run:
        (remove if why is None else remove_damaged)(jobs, job)
        service.audit.write(who, "delete", job)
    return Changed(id=job, state="deleted")


def check_own(jobs: Jobs, owner: str | None, name: str, anyone: bool) -> None:
    """Raise UsageError for a job or batch of another user, unless `anyone` is set."""
    if not anyone and owner is not None and owner != jobs.user:
        raise UsageError(
            f"{name} belongs to {owner}, and you are {jobs.user}; anyone=true allows it"
        )


@router.post("/batches", status_code=201, tags=["batches"])
def create_batch(
    body: BatchSubmission, jobs: UserJobs, who: User, service: Service
) -> BatchCreated:
    """Queue several jobs as a batch. The same batch again queues only what is missing."""
    naming = _naming(body.name, body.tags)
    specs = [_one_of_batch(jobs, values, body) for values in body.specs]
    check_specs(specs)
    specs = [name_start(jobs, spec) for spec in specs]
    salt = secrets.token_hex(8) if body.anew else ""
    made = submit_batch(jobs, specs, body.priority, salt, naming)
    service.audit.write(who, "submit", made.batch.id, queued=made.queued)
    return BatchCreated(
        id=made.batch.id,
        jobs=list(made.batch.jobs),
        queued=made.queued,
        rejected=made.rejected,
        notes=list(made.notes),
    )


def _one_of_batch(jobs: Jobs, values: dict[str, JsonValue], body: BatchSubmission) -> JobSpec:
    own = {name: it for name, it in values.items() if name != "preset"}
    preset = values.get("preset", body.preset)
    return requested_spec(jobs.settings, own, preset, body.sets, find_corpus=False)


@router.get("/batches/{batch}", response_model=BatchView, tags=["batches"])
def one_batch(batch: BatchId, jobs: UserJobs) -> Response:
    """A batch and its jobs."""
    found, records = load_batch(jobs, batch)
    return JSONResponse(describe_batch(found, records, waits(jobs, records)))


@router.get("/batches/{batch}/record", tags=["client"])
def batch_record(batch: BatchId, jobs: UserJobs) -> BatchRecord:
    """The batch and its jobs' records, for `lorajob` on other machines."""
    found, records = load_batch(jobs, batch)
    listed = _records(jobs, JobPage(records, None))
    return BatchRecord(
        batch=found,
        records=listed.records,
        waits=listed.waits,
        waits_short=listed.waits_short,
    )


@router.post("/batches/{batch}/cancel", tags=["batches"])
def cancel_jobs(
    batch: BatchId, jobs: UserJobs, who: User, service: Service, anyone: Anyone = False
) -> BatchChanged:
    """Stop all jobs of a batch."""
    check_own(jobs, load_batch(jobs, batch)[0].user, batch, anyone)
    stopped = cancel_batch(jobs, batch)
    service.audit.write(who, "cancel", batch, jobs=len(stopped.jobs))
    return BatchChanged(id=batch, **vars(stopped))


@router.post("/batches/{batch}/retry", tags=["batches"])
def retry_jobs(
    batch: BatchId,
    jobs: UserJobs,
    who: User,
    service: Service,
    failed: Annotated[bool, Query(description="Only failed jobs, not cancelled ones")] = False,
    anyone: Anyone = False,
) -> BatchChanged:
    """Queue again the unfinished stages of a batch's jobs."""
    check_own(jobs, load_batch(jobs, batch)[0].user, batch, anyone)
    again = retry_batch(jobs, batch, failed)
    service.audit.write(who, "retry", batch, jobs=len(again.jobs))
    return BatchChanged(id=batch, **vars(again))
