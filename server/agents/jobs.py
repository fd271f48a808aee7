"""Tools on jobs: submit, status, wait, cancel, retry."""

import asyncio
import time
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import BaseModel, ConfigDict, Field

from lorajob.client.remote import job_path
from lorajob.job.report import Progress
from lorajob.languages import find_language
from lorajob.server.agents.arguments import (
    MOST_LETTERS,
    MOST_LISTED,
    Anyone,
    BaseModelName,
    CorpusPlace,
    JobName,
    JobTags,
    LanguageName,
    PresetName,
    SettingLines,
    StateName,
)
from lorajob.server.agents.corpora import spec_of
from lorajob.server.agents.rest import Rest
from lorajob.server.agents.results import (
    JobChanged,
    JobStatus,
    JobSubmitted,
    Rates,
    StatusPage,
    short,
)
from lorajob.server.agents.server import rest_of
from lorajob.tasks.describe import percent

MOST_WAIT = 50  # seconds; many agents give a call up after a minute
POLL_SECONDS = 1.0
OVER = ("succeeded", "failed", "cancelled", "rejected")


class DescribedStage(BaseModel):
    """What the tools read of a stage."""

    state: str
    progress: Progress | None = None


class DescribedJob(BaseModel):
    """What the tools read of a job's description."""

    model_config = ConfigDict(extra="ignore")

    id: str
    name: str | None = None
    language: str
    user: str | None = None
    state: str
    waits_for: str | None = None
    created_at: float
    corpus: str
    base_model: str
    artifacts: str = ""
    error: str | None = None
    stages: dict[str, DescribedStage]
    metrics: dict[str, Rates] = {}
    notes: list[str] = []
    gate: str | None = None
    gate_reasons: list[str] | None = None

    @property
    def metric(self) -> Literal["wer", "cer"]:
        """The error rate of the job's language."""
        return "cer" if find_language(self.language).primary_metric == "cer" else "wer"

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self.state in OVER


async def read_view(rest: Rest, job: str) -> DescribedJob:
    """The description of one job. Raises ToolError."""
    return DescribedJob.model_validate(await rest.get(job_path(job)))


async def submit_tool(
    ctx: Context,
    language: LanguageName,
    corpus: CorpusPlace = None,
    base_model: BaseModelName = None,
    preset: PresetName = "default",
    settings: SettingLines = (),
    name: Annotated[
        str | None,
        Field(max_length=MOST_LETTERS, description="What to call the job; it is found by it, too"),
    ] = None,
    tags: JobTags | None = None,
    priority: Literal["high", "normal", "low"] = "normal",
) -> JobSubmitted:
    """Queue a job that tunes a model on a corpus. It returns at once; `wait` follows the job."""
    rest = rest_of(ctx)
    spec = spec_of(rest.backend, language, corpus, base_model)
    body = {"spec": spec, "preset": preset, "sets": settings, "priority": priority}
    made = await rest.post("/jobs", body | {"name": name, "tags": tags or {}})
    job = str(made["id"])
    return JobSubmitted(job=job, twin=made["twin"], next=f"wait with job={job} until it has ended")


async def status_tool(
    ctx: Context,
    job: JobName | None = None,
    language: Annotated[
        str | None,
        Field(max_length=MOST_LETTERS, description="Only these languages, such as hi,mr"),
    ] = None,
    # Nothing changes this list. With None, the tool's schema would also allow null.
    states: Annotated[list[StateName], Field(max_length=6, description="Only these states")] = [],  # noqa: B006
    tag: Annotated[
        str | None, Field(max_length=MOST_LETTERS, description="Only this tag: KEY or KEY=VALUE")
    ] = None,
    since: Annotated[
        str | None,
        Field(max_length=MOST_LETTERS, description="Only jobs since 12h, 2d, 8w or 2026-11-30"),
    ] = None,
    limit: Annotated[int, Field(ge=1, le=MOST_LISTED, description="Most jobs of a page")] = 20,
    after: Annotated[
        str | None,
        Field(max_length=MOST_LETTERS, description="`next_after` of the page before"),
    ] = None,
) -> StatusPage:
    """How one job is doing, or a page of jobs: state, progress, time left, what to do next."""
    rest = rest_of(ctx)
    if job is not None:
        return StatusPage(jobs=[_status(await read_view(rest, job))], next_after=None)
    query = {"lang": language, "state": states, "tag": tag, "since": since}
    page = await rest.get("/jobs", limit=limit, after=after, **query)
    found = [_status(DescribedJob.model_validate(it)) for it in page["jobs"]]
    return StatusPage(jobs=found, next_after=page["next"])


async def wait_tool(
    ctx: Context,
    job: JobName,
    seconds: Annotated[float, Field(ge=0, le=MOST_WAIT, description="Longest time to wait")] = 45,
) -> JobStatus:
    """Wait until a job has ended, or until the time is over; then say how it is doing."""
    rest = rest_of(ctx)
    ends = time.monotonic() + seconds
    while True:
        view = await read_view(rest, job)
        left = ends - time.monotonic()
        if view.over or left <= 0:
            return _status(view)
        said = _status(view)
        if said.percent is not None:
            await ctx.report_progress(said.percent, 100, f"{view.id} {said.stage}")
        await asyncio.sleep(min(POLL_SECONDS, left))


async def cancel_tool(ctx: Context, job: JobName, anyone: Anyone = False) -> JobChanged:
    """Stop a queued or running job. Its checkpoints are kept; `retry` continues it."""
    return await _change(ctx, job, "cancel", anyone, "retry continues it")


async def retry_tool(ctx: Context, job: JobName, anyone: Anyone = False) -> JobChanged:
    """Continue a failed, rejected or cancelled job from its first unfinished stage."""
    return await _change(ctx, job, "retry", anyone, "wait until it has ended")


async def _change(
    ctx: Context[Any, Any], job: str, what: str, anyone: bool, step: str
) -> JobChanged:
    found = await rest_of(ctx).post(f"{job_path(job)}/{what}", anyone=anyone)
    return JobChanged(job=found["id"], state=found["state"], next=step)


def _status(view: DescribedJob) -> JobStatus:
    stage = next((name for name, it in view.stages.items() if it.state == "running"), None)
    if stage is None and not view.over:
        waiting = (name for name, it in view.stages.items() if it.state in ("queued", "waiting"))
        stage = next(waiting, None)
    progress = None if stage is None else view.stages[stage].progress
    rates = {name: getattr(it, view.metric) for name, it in view.metrics.items()}
    return JobStatus(
        job=view.id,
        name=view.name,
        language=view.language,
        state=view.state,
        stage=stage,
        percent=None if progress is None else percent(progress),
        eta_seconds=None if progress is None else progress.eta_seconds,
        waits_for=view.waits_for,
        error=None if view.error is None else short(view.error),
        user=view.user,
        created_at=view.created_at,
        corpus=short(view.corpus),
        base_model=view.base_model,
        metric=view.metric,
        before=rates.get("base"),
        after=rates.get("delivered", rates.get("tuned")),
        gate=view.gate,
        next=_next_step(view),
    )


def _next_step(view: DescribedJob) -> str:
    if view.state == "succeeded" and view.gate == "failed":
        why = short("; ".join(view.gate_reasons or []))
        return f"its gate failed: {why}; report shows the clips, and another corpus may help"
    if view.state == "succeeded":
        return "report shows the figures, compare sets jobs side by side, promote puts it to use"
    if view.state in ("failed", "rejected"):
        return "correct what `error` names, then retry the job or submit a new one"
    if view.state == "cancelled":
        return "retry continues it"
    if view.waits_for and "none is up" in view.waits_for:
        return "start a worker for its queue; `lorajob up` starts all on one machine"
    return f"wait with job={view.id}"
