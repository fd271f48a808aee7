"""Answers that are sent in parts: tar files, and server-sent events."""

import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lorajob.server.web.limits import StreamLimit, network

CHUNK = 1 << 20
EVENTS = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
BEAT = b": still here\n\n"  # a comment, which clients ignore


def tar_of(files: Iterable[tuple[str, Path | bytes]]) -> Iterator[bytes]:
    """A tar file of `files`, name -> file or content, without ever holding a whole file."""
    for name, source in files:
        info = tarfile.TarInfo(name)
        info.mode = 0o644
        if isinstance(source, bytes):
            info.size = len(source)
            yield info.tobuf() + source
        else:
            with source.open("rb") as file:
                found = os.fstat(file.fileno())
                info.size, info.mtime = found.st_size, int(found.st_mtime)
                yield info.tobuf()
                yield from _exactly(file.fileno(), info.size, source)
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _exactly(descriptor: int, size: int, source: Path) -> Iterator[bytes]:
    left = size
    while left:
        data = os.read(descriptor, min(CHUNK, left))
        if not data:
            raise OSError(f"{source} became shorter while it was sent")
        left -= len(data)
        yield data


def below(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """The files below a folder, sorted, with `prefix` before their names. Links are left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield f"{prefix}{path.relative_to(folder).as_posix()}", path


def event(data: Mapping[str, object], name: str | None = None, mark: str | None = None) -> bytes:
    """A server-sent event with JSON data. `mark` comes back as Last-Event-ID."""
    lines = [f"event: {name}"] if name is not None else []
    lines += [f"id: {mark}"] if mark is not None else []
    lines.append(f"data: {json.dumps(data, ensure_ascii=False)}")
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


class LiveEvents(StreamingResponse):
    """Sends events as they come. Raises ApiError if too many streams are open."""

    def __init__(self, events: AsyncIterator[bytes | str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=EVENTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one stream. It is counted here, where its end is certain to be seen."""
        limit: StreamLimit = scope["app"].state.streams
        with limit.slot(_client(scope)):
            await super().__call__(scope, receive, send)


def _client(scope: Scope) -> str:
    """A key from one address. People who share a password have addresses of their own."""
    who = scope.get("lorajob.principal")
    address = scope["client"][0] if scope.get("client") else ""
    return f"{getattr(who, 'name', '')} {network(address)}"
