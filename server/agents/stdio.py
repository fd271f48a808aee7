"""`lorajob mcp`: the tools over standard input and output, for a program on this machine."""

import asyncio
import logging
import os
import secrets
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx2

from lorajob import logs
from lorajob.client.remote import WebApi
from lorajob.server.agents.door import TIMEOUT
from lorajob.server.agents.rest import ROOT, Backend
from lorajob.server.agents.tools import make_server
from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import own_service
from lorajob.worker.settings import Settings

GRACE_SECONDS = 2.0  # for tools that still run when the agent has left
PIECE_BYTES = 1 << 16

log = logging.getLogger(__name__)


def run_stdio(settings: Settings) -> int:
    """Answer an agent until standard input ends, or until SIGINT or SIGTERM. Returns the exit code.

    Standard output holds the protocol only. With LORAJOB_URL the tools use that server. Raises
    UsageError for a malformed url or key.
    """
    api = _api(settings)
    logs.configure()
    return asyncio.run(_run(settings, api))


def _api(settings: Settings) -> WebApi | None:
    if settings.url is None:
        return None
    key = settings.api_key
    return WebApi(settings.url, None if key is None else key.get_secret_value())


async def _run(settings: Settings, api: WebApi | None) -> int:
    given = _Input()
    async with here(settings) if api is None else away(api) as backend:
        serving = asyncio.create_task(_answer(backend))
        ending = asyncio.create_task(given.ended.wait())
        await asyncio.wait([serving, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        await asyncio.wait([serving], timeout=GRACE_SECONDS)
        # A tool that was cancelled deletes its files.
        serving.cancel()
        await asyncio.wait([serving], timeout=GRACE_SECONDS)
    code = 128 + given.signal if given.signal else 0
    if not serving.done():
        # A thread that reads a corpus, for example, cannot be stopped. Python would wait for it.
        os._exit(code)
    if not serving.cancelled():
        serving.result()
    return code


async def _answer(backend: Backend) -> None:
    try:
        await make_server(backend).run_stdio_async()
    except* (BrokenPipeError, ConnectionResetError):
        log.info("The agent has closed its end")


class _Input:
    """Standard input. Its end is noticed also while tools run, and a signal ends it.

    A thread that waits for standard input cannot be stopped, so the server reads a pipe instead.
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.signal = 0
        source = os.dup(0)
        reading, writing = os.pipe()
        os.dup2(reading, 0)
        os.close(reading)
        self._target = os.fdopen(writing, "wb", buffering=0)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end, number)
        threading.Thread(target=self._copy, args=(source, loop), daemon=True).start()

    def _copy(self, source: int, loop: asyncio.AbstractEventLoop) -> None:
        # ValueError: a signal has closed the pipe.
        with suppress(OSError, ValueError):
            while piece := os.read(source, PIECE_BYTES):
                while piece:
                    piece = piece[self._target.write(piece) :]
        # The loop may be closed by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._end, 0)

    def _end(self, number: int) -> None:
        if not self.ended.is_set():
            self.signal = number
            self._target.close()
            self.ended.set()


@asynccontextmanager
async def here(settings: Settings) -> AsyncIterator[Backend]:
    """The API in this process, beside the service."""
    key = secrets.token_urlsafe(32)
    app = create_web_app(own_service(settings, key), agents=False)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {key}"}
    client = httpx2.AsyncClient(
        transport=transport, base_url=ROOT, headers=headers, timeout=TIMEOUT
    )
    async with app.router.lifespan_context(app), client:
        yield Backend(client, shares_files=True)


@asynccontextmanager
async def away(api: WebApi) -> AsyncIterator[Backend]:
    """The API of another machine."""
    client = httpx2.AsyncClient(base_url=f"{api.url}/api", headers=api.headers, timeout=TIMEOUT)
    async with client:
        yield Backend(client, shares_files=False)
