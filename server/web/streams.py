"""Answers that are sent in parts: tar files, and server-sent events."""

import hashlib
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


class Tar:
    """A tar file of files, name -> file or content, without ever holding a whole file.

    Their sizes and times are those of now. The same files give the same bytes, so a download can go
    on from any byte. Raises OSError for a file that cannot be read.
    """

    def __init__(self, files: Iterable[tuple[str, Path | bytes]]) -> None:
        self._parts: list[tuple[bytes | Path, int]] = []
        mark = hashlib.sha256()
        for name, source in files:
            header, size = _header(name, source)
            padding = bytes(-size % tarfile.BLOCKSIZE)
            self._parts += [(header, len(header)), (source, size), (padding, len(padding))]
            mark.update(header)
            mark.update(source if isinstance(source, bytes) else _version(source))
        end = bytes(2 * tarfile.BLOCKSIZE)
        self._parts.append((end, len(end)))
        self.size = sum(size for _, size in self._parts)
        self.mark = mark.hexdigest()[:32]
        """Differs if a name, a size or a time of a file differs."""

    def data(self, start: int = 0) -> Iterator[bytes]:
        """The bytes from `start` on. Raises OSError for a file that became shorter."""
        for source, size in self._parts:
            if start >= size:
                start -= size
            elif isinstance(source, bytes):
                yield source[start:]
                start = 0
            else:
                yield from _file_data(source, start, size)
                start = 0


def _header(name: str, source: Path | bytes) -> tuple[bytes, int]:
    """The header of a file in a tar file, and the size of the file."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    if isinstance(source, bytes):
        info.size = len(source)
    else:
        found = source.stat()
        info.size, info.mtime = found.st_size, int(found.st_mtime)
    return info.tobuf(), info.size


def _version(path: Path) -> bytes:
    """Differs if a file was written or replaced, even within the same second."""
    found = path.stat()
    return f"{found.st_mtime_ns} {found.st_ino}".encode()


def _file_data(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        left = end - start
        while left:
            data = os.read(file.fileno(), min(CHUNK, left))
            if not data:
                raise OSError(f"{path} became shorter while it was sent")
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
