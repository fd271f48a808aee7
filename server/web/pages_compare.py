"""The screen that compares finished jobs on the clips that all of them have."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from lorajob.errors import LorajobError, StageError, UsageError
from lorajob.reporting.compare import verdict
from lorajob.reporting.comparison import Comparison, compare_jobs, comparison_chart
from lorajob.reporting.findings import Findings
from lorajob.server.web.pages_files import findings_of
from lorajob.server.web.pages_html import screen
from lorajob.server.web.pages_jobs import JobLine, JobsView, lines_of, read_lines
from lorajob.server.web.state import UserJobs
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.naming import find_id

MOST_JOBS = 8
MOST_CLIPS = 30  # those that differ most
Chosen = Annotated[list[str], Query(alias="job", default_factory=list)]

router = APIRouter(prefix="/compare")


@router.get("")
def show_comparison(request: Request, jobs: UserJobs, chosen: Chosen) -> Response:
    """The comparison of the chosen jobs, or a list to choose from."""
    comparison, problem, places = None, "", {}
    names = list(dict.fromkeys(it.strip() for it in chosen if it.strip()))
    if names:
        try:
            names = list(dict.fromkeys(jobs.load(find_id(jobs, it)).id for it in names))
        except LorajobError as error:
            names, problem = [], str(error)
    if len(names) > 1:
        try:
            found = _read(jobs, names)
            comparison = compare_jobs(found)
            places = {(clip.id, clip.reference): clip.index for clip in found[0].clips}
        except LorajobError as error:
            problem = str(error)
    return screen(
        request,
        "compare.html",
        422 if problem else 200,
        comparison=comparison,
        verdicts=[] if comparison is None else _verdicts(comparison),
        clips=[] if comparison is None else comparison.widest(MOST_CLIPS),
        places=places,
        problem=problem,
        chosen=names,
        lines=[] if comparison else _lines(jobs, names),
        charts=True,
    )


@router.get("/chart.json")
def give_chart(jobs: UserJobs, chosen: Chosen) -> Response:
    """The error rates of the chosen jobs, as Vega-Lite."""
    names = list(dict.fromkeys(chosen))
    return JSONResponse({"rates": comparison_chart(compare_jobs(_read(jobs, names)))})


def _read(jobs: Jobs, names: list[str]) -> list[Findings]:
    """The findings of jobs, by id or name. Raises UsageError and StageError."""
    if len(names) > MOST_JOBS:
        raise UsageError(f"{len(names)} jobs are chosen; at most {MOST_JOBS} are compared here")
    found = []
    for name in names:
        record = jobs.load(find_id(jobs, name))
        findings = findings_of(jobs, record)
        if findings is None:
            raise StageError(f"{record.id} has no error rates yet; it is {record.state}")
        found.append(findings)
    return found


def _verdicts(comparison: Comparison) -> list[str]:
    return [verdict(it.change, comparison.unit) if it.change else "" for it in comparison.rows]


def _lines(jobs: Jobs, names: list[str]) -> list[JobLine]:
    """Jobs to choose from: the chosen ones, finished ones of their languages, and the newest."""
    chosen = lines_of(jobs, names)
    found = {it.id: it for it in chosen}
    for language in (*dict.fromkeys(it.language for it in chosen), ""):
        lines, _ = read_lines(jobs, JobsView(lang=language, state="succeeded"))
        found |= {it.id: it for it in lines if it.id not in found}
    return list(found.values())
