"""Server-sent events: a page learns that what it shows has changed, and fetches it again.

event: state        a job has another state, or another stage
event: progress     a running stage has made progress
event: over         the job of this page has ended; nothing will follow
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter
from starlette.responses import Response

from lorajob.errors import LorajobError
from lorajob.server.web.state import UserJobs
from lorajob.server.web.streams import LiveEvents
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import service_errors
from lorajob.worker.records.record import JobRecord

POLL_SECONDS = 1.0
LONGEST_SECONDS = 600.0  # of a stream; the browser opens another one, and is admitted anew
BEAT_SECONDS = 15.0  # a comment, so that proxies and this server notice a client that left
NEWEST = 50  # jobs whose changes the table of all jobs is told

router = APIRouter()


@router.get("/events")
async def any_job(jobs: UserJobs) -> Response:
    """Changes of the newest and of all running jobs."""
    return LiveEvents(_changes(jobs, None))


@router.get("/events/{job_id}")
async def one_job(job_id: str, jobs: UserJobs) -> Response:
    """Changes of one job."""
    await asyncio.to_thread(jobs.load, job_id)
    return LiveEvents(_changes(jobs, job_id))


async def _changes(jobs: Jobs, job_id: str | None) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    states = progress = ""
    began = said = time.monotonic()
    while time.monotonic() - began < LONGEST_SECONDS:
        try:
            records = await asyncio.to_thread(_read, jobs, job_id)
        except LorajobError:
            # An outage of Redis: the browser shows it, and asks again.
            return
        found = _digest([it.revision for it in records]), _digest([_step(it) for it in records])
        event = ""
        if not states:
            event = "begin"
        elif found[0] != states:
            event = "state"
        elif found[1] != progress:
            event = "progress"
        states, progress = found
        if event:
            said = time.monotonic()
            yield f"event: {event}\ndata: {records[0].revision if job_id else 'all'}\n\n"
        elif time.monotonic() - said > BEAT_SECONDS:
            said = time.monotonic()
            yield ": \n\n"
        if job_id is not None and records[0].over:
            yield "event: over\ndata: \n\n"
            return
        await asyncio.sleep(POLL_SECONDS)


def _read(jobs: Jobs, job_id: str | None) -> list[JobRecord]:
    if job_id is not None:
        return [jobs.load(job_id)]
    with service_errors(jobs.settings):
        newest = jobs.records.newest(NEWEST)
        known = {it.id for it in newest}
        running = [it for it in jobs.records.active(NEWEST) if it not in known]
        return [*newest, *jobs.records.load_many(running)]


def _step(record: JobRecord) -> object:
    return [None if it.progress is None else it.progress.step for it in record.stages.values()]


def _digest(values: Sequence[object]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]
