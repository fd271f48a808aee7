"""/api/corpora: corpora that other machines send, in pieces, and which paths the service has."""

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect

from lorajob.errors import FULL, DiskError, ServiceError, UsageError
from lorajob.server.errors import ApiError
from lorajob.server.web.models import LocalFiles, MissingFiles, UploadedCorpus
from lorajob.server.web.state import Service, User
from lorajob.tasks.uploads import SHA256, Upload, Uploads

UPLOAD = "/api/corpora"  # takes large bodies
WRITE_BYTES = 1 << 20
RETRY_SECONDS = 5.0
MOST_BYTES = 10**14
BODY: dict[str, object] = {
    "requestBody": {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    }
}
ERRORS: dict[int | str, dict[str, object]] = {
    409: {"description": "The offset is not the next byte; without an offset, ask which it is"},
    413: {"description": "Too large for LORAJOB_UPLOADS_GB or the disk"},
    429: {"description": "Another request sends the same corpus"},
}

router = APIRouter(tags=["corpora"])


@router.post("/corpora/missing", tags=["client"])
def files_to_send(body: LocalFiles) -> MissingFiles:
    """Which of the files do not exist on the service's machine with these sizes."""
    return MissingFiles(missing=[it.path for it in body.files if not _is_here(it.path, it.bytes)])


def _is_here(path: str, size: int) -> bool:
    place = Path(path)
    try:
        return place.is_absolute() and place.is_file() and place.stat().st_size == size
    except (OSError, ValueError):  # too long, a null byte
        return False


Name = Annotated[str, Query(description="Of the file, such as cv-corpus-hi.tar.gz", max_length=150)]
Hash = Annotated[str, Query(description="Of the whole file", pattern=f"^{SHA256.pattern}$")]
Size = Annotated[int, Query(alias="bytes", description="Of the whole file", ge=1, le=MOST_BYTES)]
Offset = Annotated[int | None, Query(description="The place of the body in the file", ge=0)]


@router.post("/corpora", openapi_extra=BODY, responses=ERRORS)
async def receive_corpus(
    request: Request,
    who: User,
    service: Service,
    name: Name,
    sha256: Hash,
    size: Size,
    offset: Offset = None,
) -> UploadedCorpus:
    """Send a corpus, whole or in pieces: the body is its bytes from `offset` on.

    Without `offset` nothing is read, and the answer says how much is here. When the last byte has
    come, the hash is checked, and `corpus` is the path for a job. A corpus that is here already is
    not sent again. `lorajob prune --older AGE` also deletes corpora that no job names, a day after
    they came.
    """
    upload, uploads = Upload(name, sha256, size), Uploads(service.settings)
    try:
        with uploads.held(upload):
            if uploads.whole(upload):
                return UploadedCorpus(received=size, corpus=str(uploads.path(upload)))
            received = await asyncio.to_thread(_begin, uploads, upload)
            if offset is not None:
                if offset != received:
                    raise ApiError(409, f"offset: is {offset}, and the next byte is {received}")
                received += await _receive(request, uploads, upload, size - received)
            if received < size:
                return UploadedCorpus(received=received, corpus=None)
            path = await asyncio.to_thread(uploads.finish, upload)
    except BlockingIOError:
        said = f"{name} is being sent by another request; try again later"
        raise ApiError(429, said, retry_after=RETRY_SECONDS) from None
    service.audit.write(who, "upload", corpus=str(path), bytes=size)
    return UploadedCorpus(received=size, corpus=str(path))


def _begin(uploads: Uploads, upload: Upload) -> int:
    try:
        return uploads.begin(upload)
    except DiskError as error:
        # The next byte is not read at all, so this is no failure of the disk.
        raise ApiError(413, str(error), "bytes", error.kind) from None


async def _receive(request: Request, uploads: Uploads, upload: Upload, most: int) -> int:
    """Append the body to the beginning of a corpus, as far as it comes. Returns its bytes.

    Raises UsageError for more than `most` bytes, and DiskError for a full disk; then the received
    bytes are dropped.
    """
    count, waiting = 0, bytearray()
    try:
        with uploads.part(upload).open("ab") as file:
            try:
                async for data in request.stream():
                    count += len(data)
                    if count > most:
                        raise UsageError("bytes: the body is longer than the rest of the file")
                    waiting += data
                    if len(waiting) >= WRITE_BYTES:
                        # If this is cancelled, the thread writes on, and `finally` follows.
                        piece, waiting = bytes(waiting), bytearray()
                        await asyncio.to_thread(file.write, piece)
            except ClientDisconnect:
                raise ApiError(400, "The request ended early") from None
            finally:
                if count <= most:
                    await asyncio.to_thread(file.write, bytes(waiting))
    except OSError as error:
        if error.errno in FULL:
            uploads.drop(upload)
            raise DiskError(f"the service's disk is full: {error.strerror}") from None
        raise ServiceError(f"{upload.name} cannot be written: {error.strerror}") from None
    return count
