"""The screen that tries a model: one recording, the base beside the tuned model.

Models run in processes of their own, which end when they were not used for some minutes.
"""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

from fastapi import APIRouter, FastAPI, Form, Query, Request, UploadFile
from starlette.responses import Response

from lorajob.errors import (
    FULL,
    DiskError,
    LorajobError,
    ModelError,
    ServiceError,
    UsageError,
)
from lorajob.languages import find_language
from lorajob.server.web.pages_html import screen
from lorajob.server.web.pages_jobs import JobsView, lines_of, read_lines
from lorajob.server.web.state import Service, UserJobs
from lorajob.serving import models as serving
from lorajob.serving.bases import base_folder
from lorajob.serving.pool import ModelPool
from lorajob.spec import JobSpec
from lorajob.storage.hashes import file_hash
from lorajob.storage.urls import public
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.naming import find_id
from lorajob.tasks.promotions import open_delivered

HEAR = "/try/hear"
UPLOADS = "uploads"
LEFT_SECONDS = 3600.0  # an older upload is of a server that was killed
MEMORY_BYTES = 12e9  # for models; the longest unused one is unloaded first
IDLE_SECONDS = 300.0  # after which all models are unloaded
LONGEST_SECONDS = 600.0  # of one request
PIECE_BYTES = 1 << 20
ENDING = re.compile(r"\.[A-Za-z0-9]{1,9}")  # of a file's name


class Trials:
    """The processes of the models that are tried. Use it in one event loop."""

    def __init__(self) -> None:
        self._pool: ModelPool | None = None
        self._used = 0.0
        self._open = 0
        self._idle: asyncio.Task[None] | None = None

    async def hear(self, model: serving.ServedModel, path: Path) -> "Heard":
        """The transcript of a recording, or the reason why the model gave no text."""
        try:
            return await self.listen(model, path)
        except LorajobError as error:
            return Heard(fault=str(error))

    async def listen(self, model: serving.ServedModel, path: Path) -> "Heard":
        """The transcript of a recording. Raises LorajobError."""
        self._open += 1
        try:
            pool = self._pool = self._pool or ModelPool(MEMORY_BYTES)
            async with asyncio.timeout(LONGEST_SECONDS):
                return await _hear(pool, model, path)
        except TimeoutError:
            raise UsageError(f"The model took more than {LONGEST_SECONDS:g} s.") from None
        finally:
            self._open -= 1
            self._used = time.monotonic()
            if self._idle is None or self._idle.done():
                self._idle = asyncio.create_task(self._unload())

    async def close(self) -> None:
        """End all processes."""
        if self._idle is not None:
            self._idle.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _unload(self) -> None:
        """Unload the models when they were not used for some time."""
        while self._open or time.monotonic() - self._used < IDLE_SECONDS:
            await asyncio.sleep(max(1.0, self._used + IDLE_SECONDS - time.monotonic()))
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()


@dataclass(frozen=True)
class Heard:
    """What a model heard, or why it heard nothing."""

    pieces: tuple[serving.SpokenPiece, ...] = ()
    separator: str = " "  # between two words; empty in languages without spaces
    seconds: float = 0.0  # of sound
    took: float = 0.0  # seconds of decoding
    fault: str = ""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.listener = Trials()
    _drop_left(app.state.web.folder / UPLOADS)
    yield
    await app.state.listener.close()


router = APIRouter(prefix="/try", lifespan=_lifespan)


@router.get("")
def show_try(request: Request, jobs: UserJobs, job: Annotated[str, Query()] = "") -> Response:
    """The form, with the newest models."""
    chosen = jobs.load(find_id(jobs, job)).id if job else ""
    lines, _ = read_lines(jobs, JobsView(state="succeeded"))
    if chosen and chosen not in {it.id for it in lines}:
        lines = [*lines_of(jobs, [chosen]), *lines]
    return screen(request, "try.html", lines=lines, chosen=chosen)


@router.post("/hear")
async def hear(
    request: Request,
    jobs: UserJobs,
    service: Service,
    job: Annotated[str, Form()],
    file: UploadFile,
) -> Response:
    """What the base and the tuned model hear in a recording, as a part of the page."""
    listener: Trials = request.app.state.listener
    folder = service.folder / UPLOADS
    with ExitStack() as held:
        try:
            path = await asyncio.to_thread(keep_upload, file, folder, held)
            tuned, base = await asyncio.to_thread(_models, jobs, job, held)
        except (LorajobError, OSError) as error:
            return screen(request, "heard.html", problem=str(error), rows=[])
        found = await asyncio.gather(*(listener.hear(it, path) for it in (base, tuned)))
    rows = [("base", base.name, found[0]), ("tuned", tuned.name, found[1])]
    return screen(request, "heard.html", problem="", rows=rows)


def _drop_left(folder: Path) -> None:
    """Delete the recordings that a killed server left."""
    for path in folder.glob("*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_SECONDS:
                path.unlink()


def keep_upload(file: UploadFile, folder: Path, held: ExitStack) -> Path:
    """Write an upload to a file that goes when `held` is closed.

    Raises UsageError if it is empty, ServiceError and DiskError if it cannot be written.
    """
    ending = Path(file.filename or "").suffix
    suffix = ending if ENDING.fullmatch(ending) else ""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = held.enter_context(NamedTemporaryFile(dir=folder, suffix=suffix))  # noqa: SIM115
        shutil.copyfileobj(file.file, kept, PIECE_BYTES)
        kept.flush()
    except OSError as error:
        kind = DiskError if error.errno in FULL else ServiceError
        raise kind(f"{folder}: {error.strerror}") from error
    if not kept.tell():
        raise UsageError("The file is empty; choose or record another one")
    return Path(kept.name)


def _models(
    jobs: Jobs, name: str, held: ExitStack
) -> tuple[serving.ServedModel, serving.ServedModel]:
    """The delivered model of a job, and its base. Raises LorajobError."""
    tuned, spec = tuned_model(jobs, find_id(jobs, name), held)
    try:
        folder = base_folder(spec.base_model)
    except ModelError as error:
        # The option is that of `lorajob serve`.
        raise ModelError(str(error).removeprefix("--models: ")) from None
    hashes = {it.name: file_hash(it) for it in folder.iterdir() if it.is_file()}
    name = public(spec.base_model)
    base = serving.ServedModel(name=name, folder=folder, language=tuned.language, sha256=hashes)
    return tuned, base


def tuned_model(jobs: Jobs, job: str, held: ExitStack) -> tuple[serving.ServedModel, JobSpec]:
    """The delivered model of a job, which stays here until `held` is closed, and the job's
    settings. Raises LorajobError.
    """
    found = held.enter_context(open_delivered(job, jobs.settings))
    model = serving.ServedModel(
        name=job,
        folder=found.folder,
        language=find_language(found.language).token,
        spec=found.spec,
        sha256=found.sha256,
        created=int(found.made),
    )
    return model, JobSpec.load(found.spec)


async def _hear(pool: ModelPool, model: serving.ServedModel, path: Path) -> Heard:
    asked = serving.Request(id=0, path=path, language=model.language, times=True)
    pieces, separator, seconds = [], " ", 0.0
    async with pool.use(model) as process:
        began = time.monotonic()
        async with aclosing(process.answers(asked)) as answers:
            async for answer in answers:
                if answer.begun is not None:
                    separator, seconds = answer.begun.separator, answer.begun.seconds
                if answer.piece is not None and answer.piece.text.strip():
                    pieces.append(answer.piece)
    return Heard(tuple(pieces), separator, seconds, time.monotonic() - began)
