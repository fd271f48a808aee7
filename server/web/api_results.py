"""/api/jobs/JOB/...: logs, report, metrics, transcripts, files; /api/compare."""

import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from pydantic import JsonValue
from starlette.datastructures import Headers
from starlette.responses import Response

from lorajob.errors import StageError, UsageError
from lorajob.job.jobdir import REPORT, REPORT_FILES, STAGES, JobDir
from lorajob.languages import find_language
from lorajob.server.errors import ApiError
from lorajob.server.web.api_jobs import JobId, job_id
from lorajob.server.web.follow import log_events, log_place, read_log, state_events
from lorajob.server.web.headers import PAGE_POLICY
from lorajob.server.web.models import UtterancePage
from lorajob.server.web.state import UserJobs
from lorajob.server.web.streams import LiveEvents, Tar, below
from lorajob.spec import JobSpec
from lorajob.storage.urls import public
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.promotions import open_delivered
from lorajob.worker.artifacts.lookup import find_job

# The modules of `reporting` load numpy and altair, so each is imported when it is used.
if TYPE_CHECKING:
    from lorajob.reporting.comparison import Comparison

MOST_COMPARED = 10
MOST_DRAWN = 4  # reports and comparisons at a time; each takes a core and holds all transcripts
TAR = "application/x-tar"
# A stage, or the files of a stage whose names begin so.
PART = re.compile(rf"({'|'.join(STAGES)})(/[A-Za-z0-9_][\w.-]*)?")
EVENT_STREAM: dict[int | str, dict[str, object]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    429: {"description": "This client has too many streams; Retry-After says when to ask again"},
    503: {"description": "All clients have too many streams, or Redis is unavailable"},
}
TAR_FILE: dict[int | str, dict[str, object]] = {
    200: {"content": {TAR: {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The rest of the file from the byte N, for `Range: bytes=N-`"},
    416: {"description": "The file has no such byte"},
}
RANGE = re.compile(r"bytes=(\d{1,18})-")
Stage = Annotated[
    Literal["preprocess", "train", "evaluate", "convert"] | None,
    Query(description="Only this stage's log"),
]

router = APIRouter(tags=["results"])
_turns = threading.BoundedSemaphore(MOST_DRAWN)


@contextmanager
def _turn() -> Iterator[None]:
    """One of the few reports and comparisons that are made at a time. Raises ApiError 429."""
    if not _turns.acquire(blocking=False):
        said = f"{MOST_DRAWN} reports and comparisons are being made; try again later"
        raise ApiError(429, said, retry_after=5)
    try:
        yield
    finally:
        _turns.release()


@contextmanager
def folder_of(jobs: Jobs, job: str, *parts: str) -> Iterator[JobDir]:
    """The folder of a job on this machine, with the files of finished stages."""
    with find_job(job, jobs.settings).local(lambda: jobs.load(job), *parts) as folder:
        yield folder


@router.get("/jobs/{job}/logs", response_class=PlainTextResponse)
def job_logs(job: JobId, jobs: UserJobs, stage: Stage = None) -> Response:
    """The logs of the stages until now, as text."""
    stages = _stages(stage)
    held = ExitStack()
    files = find_job(job, jobs.settings)
    folder, refresh = held.enter_context(files.logs(lambda: jobs.load(job)))
    refresh()

    def text() -> Iterator[str]:
        with held:
            for name in stages:
                place = log_place(None, (name,))
                heading = f"==> {name} <==\n" if len(stages) > 1 else ""
                while found := read_log(folder, place, whole=True):
                    yield heading + found[0][1]
                    heading = ""

    return StreamingResponse(text(), media_type="text/plain; charset=utf-8")


def _stages(stage: str | None) -> tuple[str, ...]:
    return STAGES if stage is None else (stage,)


@router.get("/jobs/{job}/logs/follow", responses=EVENT_STREAM, response_class=StreamingResponse)
def follow_logs(
    job: JobId,
    jobs: UserJobs,
    stage: Stage = None,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """The logs as server-sent events, until the job ends.

    Events: `log` with `stage` and `text`; at the end `end` with `state`. A client that lost the
    connection continues with Last-Event-ID, as browsers do by themselves.
    """
    place = log_place(last_event_id, _stages(stage))
    jobs.load(job)
    return LiveEvents(log_events(jobs, job, place))


@router.get("/jobs/{job}/events", responses=EVENT_STREAM, response_class=StreamingResponse)
def follow_job(job: JobId, jobs: UserJobs) -> Response:
    """The job's description now and after each change, as server-sent events `job`.

    The last event is `end` with `state`.
    """
    jobs.load(job)
    return LiveEvents(state_events(jobs, job))


@router.get("/jobs/{job}/report", response_class=HTMLResponse)
def job_report(
    job: JobId,
    jobs: UserJobs,
    full: Annotated[bool, Query(description="Every test clip, with its sound")] = False,
) -> Response:
    """The page about a job, one HTML file with its own scripts."""
    drawn = None if full else find_job(job, jobs.settings).location.read(REPORT)
    if drawn is None:
        from lorajob.reporting.page import write_report

        with _turn(), folder_of(jobs, job, *REPORT_FILES) as folder:
            _check_evaluated(job, folder)
            drawn = _drawn(lambda path: write_report(folder, path, full))
    return _page(drawn)


def _page(data: bytes) -> Response:
    return HTMLResponse(data, headers={"Content-Security-Policy": PAGE_POLICY})


def _drawn(write: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="lorajob-page-") as name:
        path = Path(name) / "page.html"
        write(path)
        return path.read_bytes()


def _check_evaluated(job: str, folder: JobDir) -> None:
    if folder.result("evaluate") is None:
        raise StageError(f"{job}: has no error rates yet; its stage evaluate has not finished")


@router.get("/jobs/{job}/metrics")
def metrics_of_job(job: JobId, jobs: UserJobs) -> dict[str, object]:
    """metrics.json: the error rates of `base`, `delivered` and `tuned`, with intervals."""
    with folder_of(jobs, job, "evaluate") as folder:
        _check_evaluated(job, folder)
        path = folder.stage_dir("evaluate") / "metrics.json"
        return dict(json.loads(path.read_text("utf-8")))


@router.get("/jobs/{job}/utterances")
def utterances(
    job: JobId,
    jobs: UserJobs,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    order: Annotated[
        Literal["clips", "worst"],
        Query(description="worst: clips with the most errors of the tuned model first"),
    ] = "clips",
) -> UtterancePage:
    """The transcripts of the test clips, by each model."""
    with folder_of(jobs, job, "evaluate") as folder:
        _check_evaluated(job, folder)
        path = folder.stage_dir("evaluate") / "utterances.jsonl"
        if order == "worst":
            return _worst(path, JobSpec.load(folder.spec_path).language, offset, limit)
        rows, total = [], 0
        with path.open(encoding="utf-8") as lines:
            for total, line in enumerate(lines, 1):
                if offset < total <= offset + limit:
                    rows.append(json.loads(line))
    end = offset + limit
    return UtterancePage(rows=rows, total=total, next=end if end < total else None)


def _worst(path: Path, language: str, offset: int, limit: int) -> UtterancePage:
    """A page of the clips with errors of the tuned model, the most errors first."""
    from lorajob.reporting.words import align, count_characters, count_words

    characters = find_language(language).primary_metric == "cer"
    found: list[tuple[int, dict[str, JsonValue]]] = []
    # Not of text: its splitlines breaks lines at U+2028, too.
    for line in path.read_bytes().splitlines():
        row: dict[str, JsonValue] = json.loads(line)
        said, heard = str(row["reference"]), str(row.get("tuned") or "")
        if characters:
            errors = count_characters(said, heard, language).errors
        else:
            errors = count_words(align(said, heard, language)).errors
        if errors:
            found.append((errors, row | {"errors": errors}))
    found.sort(key=lambda it: -it[0])
    end = offset + limit
    rows = [row for _, row in found[offset:end]]
    return UtterancePage(rows=rows, total=len(found), next=end if end < len(found) else None)


@router.get("/jobs/{job}/model", responses=TAR_FILE, response_class=StreamingResponse)
def job_model(job: JobId, jobs: UserJobs, request: Request) -> Response:
    """The converted model for faster-whisper, as a tar file with one folder."""
    with ExitStack() as held:
        delivered = held.enter_context(open_delivered(job, jobs.settings))
        files = below(delivered.folder, f"{job}/")
        return send_tar(held.pop_all(), files, f"{job}.tar", request.headers)


@router.get(
    "/jobs/{job}/files",
    responses=TAR_FILE,
    response_class=StreamingResponse,
    tags=["client"],
)
def files_of_job(
    job: JobId,
    jobs: UserJobs,
    request: Request,
    part: Annotated[
        list[str] | None,
        Query(description="A stage, or the beginning of names in it: train/adapter", max_length=20),
    ] = None,
) -> Response:
    """Files of finished stages as a tar file, with spec.json, for `lorajob` on other machines."""
    parts = part or []
    for name in parts:
        if not PART.fullmatch(name):
            raise UsageError(f"part: {name!r} is not a stage or a name in one, as train/adapter")
    with ExitStack() as held:
        folder = held.enter_context(folder_of(jobs, job, *parts))
        files = _files(folder, parts)
        return send_tar(held.pop_all(), files, f"{job}-files.tar", request.headers)


def _files(folder: JobDir, parts: list[str]) -> Iterator[tuple[str, Path | bytes]]:
    JobSpec.load(folder.spec_path)  # only to refuse a damaged one
    # The values as they stand there, because results state their hash.
    values = json.loads(folder.spec_path.read_bytes())
    yield "spec.json", json.dumps(_public_values(values)).encode()
    sent: set[str] = set()
    for part in parts:
        stage, _, start = part.partition("/")
        if folder.result(stage) is None:
            continue
        for name, path in below(folder.stage_dir(stage), ""):
            whole = f"{stage}/{name}"
            if (name.startswith(start) or name == "manifest.json") and whole not in sent:
                sent.add(whole)
                yield whole, path


def _public_values(value: object) -> object:
    """JSON with its URLs made public."""
    if isinstance(value, dict):
        return {name: _public_values(it) for name, it in value.items()}
    if isinstance(value, list):
        return [_public_values(it) for it in value]
    return public(value) if isinstance(value, str) else value


def send_tar(
    held: AbstractContextManager[object],
    found: Iterator[tuple[str, Path | bytes]],
    name: str,
    asked: Headers,
) -> Response:
    """A tar file of `found`, or the rest of it from the byte that the request's headers ask for.

    `held` is left at the end, or with the error that cut it off.
    """
    tar = Tar(found)
    start = _range_start(asked, tar)

    def parts() -> Iterator[bytes]:
        with held:
            yield from tar.data(start or 0)

    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Length": str(tar.size - (start or 0)),
        "Accept-Ranges": "bytes",
        "ETag": f'"{tar.mark}"',
    }
    if start is None:
        return StreamingResponse(parts(), media_type=TAR, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{tar.size - 1}/{tar.size}"
    return StreamingResponse(parts(), 206, media_type=TAR, headers=headers)


def _range_start(asked: Headers, tar: Tar) -> int | None:
    """The first byte that `Range: bytes=N-` asks for; None for the whole file.

    Other ranges, and one of a file that has changed, get the whole file. Raises ApiError 416.
    """
    match = RANGE.fullmatch(asked.get("range", ""))
    if match is None or asked.get("if-range", f'"{tar.mark}"') != f'"{tar.mark}"':
        return None
    start = int(match[1])
    if start >= tar.size:
        raise ApiError(416, f"Range: the file has {tar.size} bytes")
    return start


Compared = Annotated[
    list[str],
    Query(description="Two or more; each is compared with the first", max_length=MOST_COMPARED),
]


@router.get("/compare")
def compare(jobs: UserJobs, job: Compared) -> dict[str, object]:
    """Compare finished jobs of one language on their common test clips."""
    with _turn():
        return _compared(jobs, job).as_json()


@router.get("/compare/page", response_class=HTMLResponse)
def compare_page(jobs: UserJobs, job: Compared) -> Response:
    """The same as a page, with the transcripts of all jobs."""
    from lorajob.reporting.comparison import write_comparison

    with _turn():
        comparison = _compared(jobs, job)
        return _page(_drawn(lambda path: write_comparison(comparison, path)))


def _compared(jobs: Jobs, names: list[str]) -> "Comparison":
    from lorajob.reporting.comparison import compare_jobs
    from lorajob.reporting.findings import read_findings

    ids = [job_id(name, jobs) for name in names]
    if len(ids) < 2 or len(set(ids)) < len(ids):
        raise UsageError("JOB: give two or more different jobs")
    found = []
    for one in ids:
        with folder_of(jobs, one, *REPORT_FILES) as folder:
            _check_evaluated(one, folder)
            found.append(read_findings(folder))
    return compare_jobs(found)
