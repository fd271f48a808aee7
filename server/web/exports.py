"""Bundles that are made for other machines, each in a child process, and kept for an hour.

One at a time is made for keys that may only view, and one for keys that may submit.

LORAJOB_HOME/web/exports/SERVER/TOKEN is the folder of one bundle. Several servers may share a
home, such as `lorajob mcp` beside `lorajob web`. Each holds a lock on exports/.locks/SERVER while
it runs, so a server deletes only what ended ones have left.
"""

import asyncio
import fcntl
import logging
import math
import os
import secrets
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lorajob.errors import JobNotFoundError, LorajobError, ServiceError
from lorajob.job.jobdir import hash_file
from lorajob.server.errors import ApiError
from lorajob.server.web.auth import Role
from lorajob.server.web.streams import BEAT, below, event
from lorajob.storage.folders import LOCKS, locked
from lorajob.worker.supervision.supervisor import child_environment

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from lorajob.bundle.child import BundleNews, BundleOrder

FOLDER = "exports"
KEPT_SECONDS = 3600.0  # a bundle waits so long for its download
SENT_SECONDS = 300.0  # and so long after it
MOST_KEPT = 16  # bundles at a time; the oldest goes for the next one
BEAT_SECONDS = 15.0  # without an event
RETRY_SECONDS = 30.0
BUSY = "A model is being exported; try again later"

log = logging.getLogger(__name__)


@dataclass
class Exports:
    """The bundles of one server. Use it in one event loop."""

    folder: Path
    """Of all servers with this home."""
    _made: dict[str, Path] = field(default_factory=dict)
    _own: Path | None = None  # of this server; made for its first bundle
    _lock: ExitStack = field(default_factory=ExitStack)
    _read: list[str] = field(default_factory=list)  # the bundle of each download
    _read_at: dict[str, float] = field(default_factory=dict)  # when its last download ended
    _busy: set[Role] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Delete what ended servers left."""
        for left in self.folder.glob("[!.]*"):
            lock = self.folder / LOCKS / left.name
            # BlockingIOError: its server runs.
            with suppress(OSError), locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)
                lock.unlink()

    def _own_folder(self) -> Path:
        """The folder of this server, with its lock. Raises OSError."""
        if self._own is None:
            name = secrets.token_hex(8)
            lock = self.folder / LOCKS / name
            self._lock.enter_context(locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
            self._lock.callback(lock.unlink, missing_ok=True)
            self._own = self.folder / name
        return self._own

    def check_turn(self, role: Role) -> None:
        """Raise ApiError 429 while another bundle is made for keys with this role."""
        if role in self._busy:
            raise ApiError(429, BUSY, retry_after=RETRY_SECONDS)

    def files(self, token: str) -> Iterator[tuple[str, Path]]:
        """The files of a finished bundle. Raises JobNotFoundError."""
        if token not in self._made:
            raise JobNotFoundError(
                f"export: {token[:40]!r} is unknown, or older than an hour; export the job again"
            )
        return below(self._made[token], "")

    @contextmanager
    def sending(self, token: str) -> Iterator[None]:
        """Keep a bundle while the block sends it, and some minutes after that.

        The connection may be cut, or its end be lost, so the client may ask for it again.
        """
        self._read.append(token)
        try:
            yield
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._expire, token, SENT_SECONDS)
        finally:
            self._read_at[token] = time.monotonic()
            self._read.remove(token)

    def drop(self, token: str) -> None:
        """Delete a bundle."""
        self._read_at.pop(token, None)
        if (folder := self._made.pop(token, None)) is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Delete all bundles."""
        for token in list(self._made):
            self.drop(token)
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
        self._lock.close()

    async def events(
        self, open_order: "Callable[[ExitStack], BundleOrder]", role: Role
    ) -> AsyncIterator[bytes]:
        """Make a bundle for a key, and tell so in events: `progress`, then `done` or `error`.

        `open_order` gets a stack that keeps the files of the job until the end. It may download
        them, so it runs in a thread.
        """
        from lorajob.bundle.layout import INDEX

        if role in self._busy:
            yield event({"message": BUSY, "code": "service"}, "error")
            return
        self._busy.add(role)
        token = secrets.token_urlsafe(16)
        held = ExitStack()
        opening: asyncio.Task[BundleOrder] | None = None
        try:
            folder = self._own_folder() / token
            folder.mkdir(parents=True, mode=0o700)
            opening = asyncio.create_task(asyncio.to_thread(open_order, held))
            async for beat in _until(opening):
                yield beat
            order = opening.result().model_copy(update={"target": folder})
            notes: tuple[str, ...] = ()
            async with aclosing(_made(order)) as steps:
                async for it in steps:
                    if isinstance(it, tuple):
                        notes = it
                    else:
                        yield it
            index = await asyncio.to_thread(hash_file, folder / INDEX)
            self._keep(token, folder)
            yield event({"export": token, "index_sha256": index, "notes": list(notes)}, "done")
        except LorajobError as error:
            yield event({"message": str(error), "code": error.kind}, "error")
        except OSError as error:
            log.error("%s: %s", self.folder, error)
            yield event({"message": f"{self.folder}: {error.strerror}", "code": "disk"}, "error")
        finally:
            self._busy.discard(role)
            _close_after(opening, held)
            if token not in self._made and self._own is not None:
                shutil.rmtree(self._own / token, ignore_errors=True)

    def _keep(self, token: str, folder: Path) -> None:
        """Keep a finished bundle for its download."""
        unread = [it for it in self._made if it not in self._read]
        for old in unread[: max(0, len(self._made) - MOST_KEPT + 1)]:
            self.drop(old)
        self._made[token] = folder
        self._loop = asyncio.get_running_loop()
        self._expire(token, KEPT_SECONDS)

    def _expire(self, token: str, seconds: float) -> None:
        """Delete a bundle after some seconds, or some minutes after its last download."""

        def end() -> None:
            since = time.monotonic() - self._read_at.get(token, -math.inf)
            if token in self._read or since < SENT_SECONDS:
                self._expire(token, RETRY_SECONDS)
            else:
                self.drop(token)

        asyncio.get_running_loop().call_later(seconds, end)


async def _until(task: "asyncio.Task[Any]") -> AsyncIterator[bytes]:
    """Comments that keep a connection open, until a task is done."""
    while not (await asyncio.wait({task}, timeout=BEAT_SECONDS))[0]:
        yield BEAT


def _close_after(opening: "asyncio.Task[Any] | None", held: ExitStack) -> None:
    """Close `held` when the thread that fills it has ended. Its client may have left before."""

    def close(done: "asyncio.Task[Any]") -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            log.info("an export that its client left: %s", error)
        held.close()

    if opening is None or opening.done():
        held.close()
    else:
        opening.add_done_callback(close)


async def _made(order: "BundleOrder") -> AsyncGenerator[bytes | tuple[str, ...], None]:
    """Events while a child makes a bundle, then notes about it. Raises LorajobError."""
    from lorajob.bundle.child import BundleNews

    command = (sys.executable, "-m", "lorajob.bundle.child")
    child = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, start_new_session=True, env=child_environment()
    )
    orders, told = cast("StreamWriter", child.stdin), cast("StreamReader", child.stdout)
    try:
        orders.write(order.model_dump_json().encode() + b"\n")
        await orders.drain()
        while True:
            reading = asyncio.create_task(told.readline())
            async for beat in _until(reading):
                yield beat
            if not (line := reading.result()):
                raise ServiceError("The export broke; the log of `lorajob web` says why")
            news = BundleNews.model_validate_json(line)
            if news.error is not None:
                raise _error(news)
            if news.done is not None:
                yield news.done
                return
            yield event({"text": news.progress}, "progress")
    finally:
        await _end(child)


def _error(news: "BundleNews") -> LorajobError:
    error = LorajobError(news.error or "")
    error.kind = news.kind
    return error


async def _end(child: Process) -> None:
    """End the child and all that it started. A client may have left."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await asyncio.shield(child.wait())
