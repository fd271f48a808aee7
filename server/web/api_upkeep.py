"""/api/jobs/JOB/verify, /api/prune and /api/rebuild: the files and records of jobs are checked,
deleted and restored.
"""

import threading
from typing import Annotated

from fastapi import APIRouter, Query

from lorajob.client.job import Job
from lorajob.client.service import Client
from lorajob.errors import LorajobError, ServiceError
from lorajob.server.web.api_jobs import JobId
from lorajob.server.web.limits import one_of
from lorajob.server.web.models import (
    DiskFolder,
    DiskFolders,
    PrunedJobs,
    RebuiltJobs,
    ServiceNotes,
    VerifiedJob,
)
from lorajob.server.web.state import Service, User, UserJobs
from lorajob.tasks.disk import disk_items, free_bytes
from lorajob.tasks.prune import Keep, Pruned, parse_age, prune_all
from lorajob.tasks.rebuild import rebuild

MOST_VERIFIED = 2  # jobs at a time; all their files are read

router = APIRouter(tags=["service"])
_verifying = threading.BoundedSemaphore(MOST_VERIFIED)
_changing = threading.BoundedSemaphore(1)
_measuring = threading.BoundedSemaphore(1)

Older = Annotated[
    str,
    Query(description="Jobs that ended more than this ago: 12h, 30d, 8w", max_length=100),
]
Kept = Annotated[
    Keep,
    Query(description="best: keep the best job of each language, base model and test set"),
]


@router.get("/jobs/{job}/verify", tags=["results"])
def verify_job(job: JobId, jobs: UserJobs) -> VerifiedJob:
    """Check the files of a job and its base model by their hashes. It reads all files."""
    with one_of(_verifying, f"{MOST_VERIFIED} jobs are being verified"):
        return VerifiedJob.model_validate(Job(jobs, job).verify().as_json())


@router.get("/notes")
def service_notes(jobs: UserJobs) -> ServiceNotes:
    """What a user should know: workers that take no work, damaged records, lost jobs."""
    return ServiceNotes(notes=Client(jobs).notes())


@router.get("/disk")
def disk_folders(jobs: UserJobs) -> DiskFolders:
    """The folders of lorajob on the server's machine, and their sizes."""
    settings = jobs.settings
    with one_of(_measuring, "the disk is being measured"):
        items = [
            DiskFolder(
                what=it.what,
                path=str(it.path),
                bytes=it.bytes,
                alone_bytes=it.alone,
                removed_by=it.removed_by,
            )
            for it in disk_items(settings)
        ]
    home = settings.home
    return DiskFolders(items=items, home=str(home), free_bytes=free_bytes(home))


@router.get("/prune")
def jobs_to_prune(jobs: UserJobs, older: Older, keep: Kept = "best") -> PrunedJobs:
    """The jobs and corpora that a POST with the same values deletes."""
    return _pruned(prune_all(jobs, parse_age(older), keep, dry_run=True))


@router.post("/prune")
def prune_jobs(
    jobs: UserJobs, who: User, service: Service, older: Older, keep: Kept = "best"
) -> PrunedJobs:
    """Delete jobs of all users that ended long ago. Queued, running and promoted jobs stay.

    Corpora that other machines sent and no job names are deleted, too, a day after they came.
    """
    seconds = parse_age(older)
    with one_of(_changing, "jobs are being pruned or rebuilt"):
        try:
            found = _pruned(prune_all(jobs, seconds, keep))
        except (LorajobError, OSError) as error:
            # Some jobs may be deleted by now.
            service.audit.write(who, "prune", older=older, keep=keep, error=str(error))
            if isinstance(error, OSError):
                place = error.filename or jobs.settings.jobs
                raise ServiceError(f"{place} cannot be deleted: {error.strerror}") from error
            raise
    service.audit.write(who, "prune", older=older, keep=keep, **found.model_dump())
    return found


def _pruned(found: Pruned) -> PrunedJobs:
    ids, folders = [it.id for it in found.jobs], [str(it) for it in found.corpora]
    return PrunedJobs(jobs=ids, corpora=folders, notes=found.notes)


@router.post("/rebuild")
def rebuild_jobs(
    jobs: UserJobs,
    who: User,
    service: Service,
    take_over: Annotated[bool, Query(description="Also jobs of another service")] = False,
) -> RebuiltJobs:
    """Restore the records of jobs whose files are there and whose records are lost or damaged."""
    with one_of(_changing, "jobs are being pruned or rebuilt"):
        found = rebuild(jobs.settings, take_over)
    service.audit.write(who, "rebuild", take_over=take_over, jobs=list(found.jobs))
    return RebuiltJobs.model_validate(vars(found))
