"""The screen of all jobs: filter, sort, pages."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from lorajob.errors import UsageError
from lorajob.job.results import fewer_errors, headline, verdict_of
from lorajob.server.web.pages_html import screen
from lorajob.server.web.state import UserJobs
from lorajob.storage.urls import public
from lorajob.tasks.describe import Wait
from lorajob.tasks.jobs import Jobs, waits
from lorajob.tasks.listing import Sort, list_jobs, parse_filter
from lorajob.tasks.words import (
    base_model_name,
    corpus_name,
    current_stage,
    done_share,
    ended_seconds,
    language_of,
    state_of_work,
)
from lorajob.worker.connect import service_errors
from lorajob.worker.records.record import JobRecord

PAGE = 50
MOST_PAGES = 1000
STATES = ("queued", "running", "succeeded", "failed", "cancelled", "rejected")

router = APIRouter()


@dataclass(frozen=True)
class JobsView:
    """Which jobs the screen shows."""

    q: str = ""
    lang: str = ""
    state: str = ""
    tag: str = ""
    sort: Sort = "newest"
    page: int = 1

    @property
    def filtered(self) -> bool:
        """Whether anything is left out."""
        return replace(self, sort="newest", page=1) != JobsView()

    def link(self, **changes: str | int) -> str:
        """The path of this screen with other values."""
        default = JobsView()
        values = {name: changes.get(name, value) for name, value in vars(self).items()}
        given = {name: it for name, it in values.items() if it != getattr(default, name)}
        return f"/?{urlencode(given)}" if given else "/"


@dataclass(frozen=True)
class JobLine:
    """A job in the table. Rates are in percent, times in seconds."""

    id: str
    name: str | None
    tags: list[str]
    state: str
    gate: str | None
    doing: str  # stage and progress, what it waits for, or why it failed
    share: float | None  # of a running job, 0 to 1
    language: str
    language_name: str
    corpus: str
    base: str
    base_name: str
    metric: str
    before: float | None
    after: float | None
    interval: tuple[float, float] | None  # of `after`, 95 %
    clips: int | None
    before_clips: int | None
    fewer: float | None  # errors than the base model on its clips, in percent of its errors
    seconds: float
    created_at: float
    age: float

    @property
    def fewer_clips(self) -> int | None:
        """The clips of the base model, if it was decoded on fewer."""
        return self.before_clips if self.before_clips != self.clips else None


def view_of(
    q: Annotated[str, Query(max_length=100)] = "",
    lang: Annotated[str, Query(max_length=50)] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    tag: Annotated[str, Query(max_length=200)] = "",
    sort: Annotated[str, Query(max_length=20)] = "newest",
    page: Annotated[int, Query(ge=1, le=MOST_PAGES)] = 1,
) -> JobsView:
    """What a request asks for. An unknown order or state is as none."""
    orders: tuple[Sort, ...] = get_args(Sort)
    order: Sort = next((it for it in orders if it == sort), "newest")
    return JobsView(q.strip(), lang, state if state in STATES else "", tag.strip(), order, page)


@router.get("/")
def jobs_screen(
    request: Request, jobs: UserJobs, view: Annotated[JobsView, Depends(view_of)]
) -> Response:
    """The table of jobs."""
    problem, more = "", False
    rows: list[JobLine] = []
    try:
        rows, more = read_lines(jobs, view)
    except UsageError as error:
        problem = str(error).removeprefix("--")
    return screen(
        request,
        "jobs.html",
        400 if problem else 200,
        view=view,
        rows=rows,
        more=more,
        problem=problem,
        states=STATES,
        languages=_languages(jobs),
        events="/events",
    )


def read_lines(jobs: Jobs, view: JobsView) -> tuple[list[JobLine], bool]:
    """The lines of a page, and whether there are more jobs. Raises UsageError."""
    states = [view.state] if view.state else []
    tags = [view.tag] if view.tag else []
    languages = frozenset(language_of(it.strip()).code for it in view.lang.split(",") if it.strip())
    wanted = replace(parse_filter(None, states, tags, None), languages=languages, text=view.q)
    first = PAGE * (view.page - 1)
    found = list_jobs(jobs, wanted, first + PAGE + 1, view.sort, state_of_work)
    return _lines(jobs, found[first : first + PAGE]), len(found) > first + PAGE


def lines_of(jobs: Jobs, ids: Sequence[str]) -> list[JobLine]:
    """The lines of some jobs. Unknown ones are left out."""
    with service_errors(jobs.settings):
        return _lines(jobs, jobs.records.load_many(ids))


def _lines(jobs: Jobs, records: Sequence[JobRecord]) -> list[JobLine]:
    waiting, now = waits(jobs, records), time.time()
    return [_line(record, waiting, now) for record in records]


def _languages(jobs: Jobs) -> list[tuple[str, str]]:
    """Code and name of the languages that have jobs, by name."""
    with service_errors(jobs.settings):
        codes = {it.rpartition("-")[0] for it in jobs.records.ids()}
    found = {(it := language_of(code)).code: it.name for code in codes}
    return sorted(found.items(), key=lambda it: it[1])


def _line(record: JobRecord, waiting: Mapping[str, Wait], now: float) -> JobLine:
    language = language_of(record.language)
    scores = record.scores
    after = headline(scores)
    results = {name: stage.result for name, stage in record.stages.items()}
    checked = verdict_of(results)
    before = scores.get("base")
    metric = language.primary_metric
    stage, progress = current_stage(record)
    runs = record.standing.runs
    return JobLine(
        id=record.id,
        name=record.name,
        tags=[f"{key}={value}" for key, value in record.tags.items()],
        state=state_of_work(record),
        gate=None if checked is None else checked.gate,
        doing=_doing(record, stage, progress, waiting),
        share=done_share(record) if runs else None,
        language=language.code,
        language_name=language.name,
        corpus=corpus_name(record.corpus),
        base=public(record.base_model),
        base_name=base_model_name(record.base_model),
        metric=metric,
        before=None if before is None else getattr(before, metric),
        after=None if after is None else getattr(scores[after], metric),
        interval=None if after is None else getattr(scores[after], f"{metric}_interval"),
        clips=None if after is None else scores[after].clips,
        before_clips=None if before is None else before.clips,
        fewer=fewer_errors(record.stages["evaluate"].result, metric),
        seconds=seconds_of(record, now),
        created_at=record.created_at,
        age=now - record.created_at,
    )


def _doing(record: JobRecord, stage: str, progress: str, waiting: Mapping[str, Wait]) -> str:
    if record.error:
        return " ".join(record.error.split())
    if record.over:
        return ""
    wait = waiting.get(record.id)
    return f"{stage}: waits for {wait}" if wait else f"{stage} {progress}"


def seconds_of(record: JobRecord, now: float) -> float:
    """How long stages of the job ran: ended attempts, and the stage that runs."""
    running = [it for it in record.stages.values() if it.state == "running" and it.started_at]
    return ended_seconds(record) + sum(now - (it.started_at or now) for it in running)
