"""Bundles that are made for other machines: one at a time, in a child process, kept for an hour.

LORAJOB_HOME/web/exports/TOKEN is the folder of one bundle.
"""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lorajob.errors import JobNotFoundError, LorajobError, ServiceError
from lorajob.job.jobdir import hash_file
from lorajob.server.errors import ApiError
from lorajob.server.web.streams import BEAT, event
from lorajob.worker.supervision.supervisor import child_environment

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from lorajob.bundle.child import BundleNews, BundleOrder

FOLDER = "exports"
KEPT_SECONDS = 3600.0  # a bundle waits so long for its download
BEAT_SECONDS = 15.0  # without an event
RETRY_SECONDS = 30.0
BUSY = "A model is being exported; try again later"

log = logging.getLogger(__name__)


@dataclass
class Exports:
    """The bundles of one server. Use it in one event loop."""

    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)
    _busy: bool = False

    def start(self) -> None:
        """Delete what an earlier server left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def check_turn(self) -> None:
        """Raise ApiError 429 while another bundle is made."""
        if self._busy:
            raise ApiError(429, BUSY, retry_after=RETRY_SECONDS)

    def find(self, token: str) -> Path:
        """The folder of a finished bundle. Raises JobNotFoundError."""
        if token not in self._made:
            raise JobNotFoundError(
                f"export: {token[:40]!r} is unknown, or older than an hour; export the job again"
            )
        return self._made[token]

    def drop(self, token: str) -> None:
        """Delete a bundle."""
        if (folder := self._made.pop(token, None)) is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Delete all bundles."""
        for token in list(self._made):
            self.drop(token)

    async def events(
        self, open_order: "Callable[[ExitStack], BundleOrder]"
    ) -> AsyncIterator[bytes]:
        """Make a bundle, and tell so in events: `progress`, then `done` or `error`.

        `open_order` gets a stack that keeps the files of the job until the end. It may download
        them, so it runs in a thread.
        """
        from lorajob.bundle.layout import INDEX

        if self._busy:
            yield event({"message": BUSY, "code": "service"}, "error")
            return
        self._busy = True
        token = secrets.token_urlsafe(16)
        folder = self.folder / token
        held = ExitStack()
        try:
            folder.mkdir(parents=True, mode=0o700)
            order = await asyncio.to_thread(open_order, held)
            notes: tuple[str, ...] = ()
            async for it in _made(order.model_copy(update={"target": folder})):
                if isinstance(it, tuple):
                    notes = it
                else:
                    yield it
            index = await asyncio.to_thread(hash_file, folder / INDEX)
            self._made[token] = folder
            asyncio.get_running_loop().call_later(KEPT_SECONDS, self.drop, token)
            yield event({"export": token, "index_sha256": index, "notes": list(notes)}, "done")
        except LorajobError as error:
            yield event({"message": str(error), "code": error.kind}, "error")
        except OSError as error:
            log.error("%s: %s", folder, error)
            yield event({"message": f"{folder}: {error.strerror}", "code": "disk"}, "error")
        finally:
            self._busy = False
            held.close()
            if token not in self._made:
                shutil.rmtree(folder, ignore_errors=True)


async def _made(order: "BundleOrder") -> AsyncIterator[bytes | tuple[str, ...]]:
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
        reading = asyncio.create_task(told.readline())
        while True:
            done, _ = await asyncio.wait({reading}, timeout=BEAT_SECONDS)
            if not done:
                yield BEAT
                continue
            if not (line := reading.result()):
                raise ServiceError("The export broke; the log of `lorajob web` says why")
            news = BundleNews.model_validate_json(line)
            if news.error is not None:
                raise _error(news)
            if news.done is not None:
                yield news.done
                return
            yield event({"text": news.progress}, "progress")
            reading = asyncio.create_task(told.readline())
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
