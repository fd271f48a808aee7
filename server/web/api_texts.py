"""/api/texts: the text of each language, which its jobs use beside their audio."""

import asyncio
import gzip
import shutil
import tempfile
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Request
from fastapi import Path as InPath
from starlette.requests import ClientDisconnect

from lorajob.errors import FULL, DiskError, FilesError, ServiceError, UsageError
from lorajob.server.errors import ApiError
from lorajob.server.web.models import RemovedText
from lorajob.server.web.state import Service, User, UserJobs
from lorajob.tasks.language_texts import LanguageText, LanguageTexts

FOLDER = "/api/texts/"  # paths that take large bodies
SCRATCH = "texts"
LEFT_SECONDS = 3600.0  # an older body is of a server that was killed
PIECE_BYTES = 1 << 20
BODY: dict[str, object] = {
    "requestBody": {"content": {"text/plain": {"schema": {"type": "string", "format": "binary"}}}}
}


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    _drop_left(app.state.web.folder / SCRATCH)
    yield


def _drop_left(folder: Path) -> None:
    """Delete the bodies that killed servers left. Another one with this home may run."""
    for left in folder.glob("tmp*"):
        with suppress(OSError):
            newest = max(it.stat().st_mtime for it in (left, *left.iterdir()))
            if time.time() - newest > LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


router = APIRouter(prefix="/texts", tags=["texts"], lifespan=_lifespan)

Language = Annotated[str, InPath(max_length=100, description="Code or name of a language")]


@router.get("")
def language_texts(jobs: UserJobs) -> list[LanguageText]:
    """The languages that have a text."""
    return LanguageTexts(jobs.settings).listed()


@router.put("/{language}", openapi_extra=BODY)
async def put_text(
    language: Language, request: Request, jobs: UserJobs, who: User, service: Service
) -> LanguageText:
    """Make the body the text of a language: a sentence a line, in UTF-8, plain or packed with gzip.

    Jobs that are submitted from now on use it. It takes the place of an earlier one.
    """
    folder = service.folder / SCRATCH
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "body"
        await _receive(request, path)
        await asyncio.to_thread(_check_size, path)
        try:
            made = await asyncio.to_thread(LanguageTexts(jobs.settings).set, language, [path])
        except FilesError as error:
            raise UsageError(str(error).replace(str(path), "body")) from None
    service.audit.write(who, "text", language=made.language, lines=made.lines)
    return made


@router.delete("/{language}")
def delete_text(language: Language, jobs: UserJobs, who: User, service: Service) -> RemovedText:
    """Remove the text of a language. Jobs that were submitted keep their copies."""
    code = LanguageTexts(jobs.settings).remove(language)
    service.audit.write(who, "text", language=code, removed=True)
    return RemovedText(language=code)


async def _receive(request: Request, path: Path) -> None:
    """Write a body to a file. Raises DiskError for a full disk."""
    try:
        with path.open("wb") as file:
            async for data in request.stream():
                await asyncio.to_thread(file.write, data)
    except ClientDisconnect:
        raise ApiError(400, "The request ended early") from None
    except OSError as error:
        if error.errno in FULL:
            raise DiskError(f"the service's disk is full: {error.strerror}") from None
        raise ServiceError(f"the text cannot be written: {error.strerror}") from None


def _check_size(path: Path) -> None:
    """Raise UsageError for a packed text that is larger than one behind a url may be."""
    from lorajob.corpora.texts import MOST_BYTES
    from lorajob.speech.text_file import GZIP

    with path.open("rb") as body:
        if body.read(len(GZIP)) != GZIP:
            return
    size = 0
    # A damaged one is explained when its lines are read.
    with suppress(EOFError, zlib.error, gzip.BadGzipFile), gzip.open(path) as file:
        while size <= MOST_BYTES and (piece := file.read(PIECE_BYTES)):
            size += len(piece)
    if size > MOST_BYTES:
        raise UsageError(f"body: has over {MOST_BYTES >> 30} GB unpacked; give a part of it")
