"""The screen of one job, its parts that are fetched again, its sound, and what is done with it."""

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)

from lorajob.errors import LorajobError
from lorajob.job.jobdir import STAGES
from lorajob.reporting.charts import all_charts, training_charts
from lorajob.reporting.findings import CorpusCounts, Findings
from lorajob.reporting.page import choose_clips, verdict_line
from lorajob.server.errors import ApiError
from lorajob.server.web import pages_files as files
from lorajob.server.web.pages_html import screen
from lorajob.server.web.pages_view import view_job
from lorajob.server.web.state import Service, User, UserJobs
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.naming import find_id
from lorajob.visible import visible_lines
from lorajob.worker.records.record import JobRecord

LAST = 286  # the status with which htmx shows an answer and asks no more
SOUND_SECONDS = 3600  # that a browser keeps a clip
SUMMARY = "summary"  # the id of the part of the page that shows steps
OF_TRAINING = ("loss", "validation", "learning_rate")

Found = TypeVar("Found")
Settings = list[tuple[str, object, object]]  # name, value, default

router = APIRouter(prefix="/jobs")


@dataclass(frozen=True)
class Read(Generic[Found]):
    """What was read of a job's files, or why it could not be read."""

    found: Found | None = None
    fault: str = ""


def _read(read: Callable[[], Found]) -> Read[Found]:
    """A part of the screen that is missing or damaged must not hide the others."""
    try:
        return Read(read())
    except LorajobError as error:
        return Read(fault=str(error))
    except OSError as error:
        return Read(fault=f"The files of the job cannot be read: {error.strerror}")


@router.get("/{job_id}")
def job_screen(
    request: Request, job_id: str, jobs: UserJobs, stage: Annotated[str, Query()] = ""
) -> Response:
    """The screen of a job, also by its name or the beginning of its id."""
    found = find_id(jobs, job_id)
    if found != job_id:
        return RedirectResponse(f"/jobs/{found}", 302)
    record = jobs.load(job_id)
    # With each step of a stage htmx fetches the summary alone, which needs no file of the job.
    whole = request.headers.get("HX-Target") != SUMMARY
    findings: Read[Findings | None] = Read()
    data: Read[CorpusCounts | None] = Read()
    settings: Read[Settings] = Read()
    log: Read[str] = Read()
    shown = stage if stage in STAGES else _newest_stage(record)
    if whole:
        findings = _read(lambda: files.findings_of(jobs, record))
        data = _read(lambda: files.data_of(jobs, record))
        settings = _read(lambda: files.settings_of(jobs, record))
        log = _read(lambda: files.log_tail(jobs, record, shown))
    return screen(
        request,
        "job.html",
        job=view_job(jobs, record),
        findings=findings.found,
        data=data.found,
        settings=settings,
        faults=list(dict.fromkeys(it.fault for it in (findings, data) if it.fault)),
        verdict=verdict_line(findings.found) if findings.found else "",
        groups=choose_clips(findings.found, full=False) if findings.found else [],
        stage_names=STAGES,
        log_stage=shown,
        log=log.found or "",
        clone=True,
        report=f"/api/jobs/{record.id}/report",
        charts=True,
        events=None if record.over else f"/events/{record.id}",
        seen=record.revision,
    )


def _newest_stage(record: JobRecord) -> str:
    """The stage that ran last."""
    begun = [name for name, it in record.stages.items() if it.started_at]
    return begun[-1] if begun else STAGES[0]


@router.get("/{job_id}/log")
def show_log(job_id: str, jobs: UserJobs, stage: str = STAGES[0]) -> Response:
    """The end of a stage's log, as text of an HTML page."""
    record = jobs.load(job_id)
    text = files.log_tail(jobs, record, _known(stage))
    return HTMLResponse(html.escape(visible_lines(text)), LAST if record.over else 200)


@router.get("/{job_id}/log.txt")
def give_log(job_id: str, jobs: UserJobs, stage: str = STAGES[0]) -> Response:
    """A stage's whole log."""
    return PlainTextResponse(files.whole_log(jobs, jobs.load(job_id), _known(stage)))


def _known(stage: str) -> str:
    if stage not in STAGES:
        raise ApiError(422, f"stage: {stage[:40]!r} is not allowed; one of {', '.join(STAGES)}")
    return stage


@router.get("/{job_id}/curves.json")
def give_curves(job_id: str, jobs: UserJobs) -> Response:
    """The charts of the training, as Vega-Lite, as far as it is."""
    return JSONResponse(training_charts(files.curves_of(jobs, jobs.load(job_id))))


@router.get("/{job_id}/charts.json")
def give_charts(job_id: str, jobs: UserJobs) -> Response:
    """The charts of the result, as Vega-Lite."""
    findings = files.findings_of(jobs, jobs.load(job_id))
    charts = {} if findings is None else all_charts(findings)
    return JSONResponse({name: it for name, it in charts.items() if name not in OF_TRAINING})


@router.get("/{job_id}/clips/{index}.mp3")
def give_clip(job_id: str, index: int, jobs: UserJobs) -> Response:
    """The sound of a test clip."""
    sound = files.clip_sound(jobs, jobs.load(job_id), index)
    headers = {"Cache-Control": f"private, max-age={SOUND_SECONDS}"}
    return Response(sound, media_type="audio/mpeg", headers=headers)


@router.post("/{job_id}/cancel")
def cancel_by_form(job_id: str, jobs: UserJobs, service: Service, who: User) -> Response:
    """Stop a job."""
    return _change(job_id, jobs, service, who, "cancel", jobs.cancel)


@router.post("/{job_id}/retry")
def retry_by_form(job_id: str, jobs: UserJobs, service: Service, who: User) -> Response:
    """Continue a job."""
    return _change(job_id, jobs, service, who, "retry", jobs.retry)


def _change(
    job_id: str,
    jobs: Jobs,
    service: Service,
    who: User,
    what: str,
    change: Callable[[str], object],
) -> Response:
    change(job_id)
    service.audit.write(who, what, job_id)
    return RedirectResponse(f"/jobs/{job_id}", 303)
