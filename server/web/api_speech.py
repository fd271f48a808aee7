"""/api/jobs/JOB/transcribe: a recording, heard by the model of a job."""

import asyncio
import re
from contextlib import ExitStack

from fastapi import APIRouter, Request, UploadFile

from lorajob.server.web.api_jobs import JobId
from lorajob.server.web.models import SpokenPart, SpokenText
from lorajob.server.web.pages_try import UPLOADS as FOLDER
from lorajob.server.web.pages_try import Trials, keep_upload, tuned_model
from lorajob.server.web.state import Service, UserJobs

UPLOADS = re.compile(r"/api/jobs/[^/]+/transcribe")  # paths that take large bodies

router = APIRouter(tags=["results"])


@router.post("/jobs/{job}/transcribe")
async def transcribe_recording(
    job: JobId, request: Request, jobs: UserJobs, service: Service, file: UploadFile
) -> SpokenText:
    """Transcribe a recording with the delivered model of a job. The recording is not kept."""
    listener: Trials = request.app.state.listener
    with ExitStack() as held:
        path = await asyncio.to_thread(keep_upload, file, service.folder / FOLDER, held)
        model, _ = await asyncio.to_thread(tuned_model, jobs, job, held)
        heard = await listener.listen(model, path)
    parts = [SpokenPart(start=it.start, end=it.end, text=it.text) for it in heard.pieces]
    text = heard.separator.join(it.text.strip() for it in parts)
    return SpokenText(job=job, text=text, seconds=heard.seconds, parts=parts)
