"""/api/jobs/JOB/export and /tensorboard: files of a job, made or read for another machine."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from lorajob.errors import UsageError
from lorajob.job.jobdir import JobDir
from lorajob.server.web.api_jobs import JobId
from lorajob.server.web.api_results import EVENT_STREAM, TAR_FILE, folder_of, send_tar
from lorajob.server.web.exports import FOLDER, Exports
from lorajob.server.web.state import Service, User, UserJobs
from lorajob.server.web.streams import LiveEvents, below

CURVES = ("train/tensorboard", "evaluate/tensorboard")  # files of finished stages
MOST_CHECKED = 10_000  # clips
HUB_NAME = r"^[\w.-]+/[\w.-]+$"
Short = Query(max_length=200)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.exports = Exports(app.state.web.folder / FOLDER)
    app.state.exports.start()
    yield
    app.state.exports.close()


router = APIRouter(tags=["results"], lifespan=_lifespan)


@router.get("/jobs/{job}/export", responses=EVENT_STREAM, response_class=StreamingResponse)
def export_job(
    job: JobId,
    request: Request,
    jobs: UserJobs,
    who: User,
    service: Service,
    what: Annotated[
        str, Query(description="Forms, comma-separated", max_length=200)
    ] = "adapter,merged,ctranslate2,ggml",
    license: Annotated[str | None, Short] = None,
    base_model: Annotated[
        str | None, Query(description="The base model's name on the Hub", max_length=200)
    ] = None,
    base_revision: Annotated[str | None, Short] = None,
    repo: Annotated[
        str | None,
        Query(description="OWNER/NAME, if it goes to the Hub", pattern=HUB_NAME, max_length=200),
    ] = None,
    check: Annotated[
        int, Query(description="Score the forms on so many clips", ge=0, le=MOST_CHECKED)
    ] = 0,
    force: Annotated[bool, Query(description="Also if the gate failed")] = False,
) -> Response:
    """Make the model's bundle on the server, as `lorajob export`, and tell so in events.

    Events: `progress` with `text`; at the end `error` with `message`, or `done` with `export`,
    `notes` and `index_sha256`, the hash of bundle.json. For an hour, `/api/exports/EXPORT` is the
    bundle.
    """
    from lorajob.bundle.child import BundleOrder
    from lorajob.bundle.layout import check_license, needed_files, parse_forms

    if base_revision is not None and base_model is None:
        raise UsageError("base_revision: needs base_model")
    forms, licence = parse_forms(what), check_license(license)
    exports: Exports = request.app.state.exports
    exports.check_turn(who.role)
    jobs.load(job)

    def open_order(held: ExitStack) -> BundleOrder:
        folder = held.enter_context(folder_of(jobs, job, *needed_files(check)))
        return BundleOrder(
            job=folder.root,
            target=exports.folder,
            forms=forms,
            license=licence,
            base_model=base_model,
            base_revision=base_revision,
            repo=repo,
            check=check,
            force=force,
        )

    service.audit.write(who, "export", job, forms=list(forms))
    return LiveEvents(exports.events(open_order, who.role))


@router.get("/exports/{export}", responses=TAR_FILE, response_class=StreamingResponse)
async def exported_files(
    export: Annotated[str, InPath(max_length=100)], request: Request
) -> Response:
    """A bundle that was made, as a tar file. Some minutes after it was sent, it is deleted."""
    exports: Exports = request.app.state.exports
    files = exports.files(export)
    return send_tar(exports.sending(export), files, "bundle.tar", request.headers)


@router.get(
    "/jobs/{job}/tensorboard",
    responses=TAR_FILE,
    response_class=StreamingResponse,
    tags=["client"],
)
def tensorboard_of_job(job: JobId, jobs: UserJobs, request: Request) -> Response:
    """TensorBoard's files of train and evaluate as a tar file, also of a stage that runs."""
    with ExitStack() as held:
        folder = held.enter_context(folder_of(jobs, job, *CURVES))
        name = f"{job}-tensorboard.tar"
        return send_tar(held.pop_all(), _curves(folder), name, request.headers)


def _curves(folder: JobDir) -> Iterator[tuple[str, Path | bytes]]:
    for stage in ("train", "evaluate"):
        if (place := folder.curves(stage)) is not None:
            yield from below(place, f"{stage}/")
