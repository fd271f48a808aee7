"""Runs the server until SIGINT or SIGTERM: listens, opens the models, and cleans up."""

import asyncio
import functools
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from lorajob import logs
from lorajob.errors import LorajobError, ServiceError, UsageError
from lorajob.server.app import create_app
from lorajob.server.catalogue import ModelCatalogue
from lorajob.server.glossaries import GlossaryShelf
from lorajob.server.metrics import ServerMetrics
from lorajob.server.service import Limits, SpeechService
from lorajob.serving.models import ServedModel
from lorajob.serving.pool import ModelPool
from lorajob.serving.process import ModelProcess
from lorajob.storage.urls import is_loopback
from lorajob.worker.settings import Settings

MEMORY_SHARE = 0.7  # of this machine's memory, for models
GRACE_SECONDS = 30  # for open requests when the server is told to end
MOST_CONNECTIONS = 1000
UPLOADS = "uploads-"  # folders in LORAJOB_HOME/serve, one for each running server

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """The options of `lorajob serve`."""

    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "auto"
    memory_gb: float | None = None
    limits: Limits = field(default_factory=Limits)


def api_keys(text: str) -> list[str]:
    """The keys of a comma-separated list. Empty parts are left out."""
    return [key for it in text.split(",") if (key := it.strip())]


def run_server(settings: Settings, options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. `say` is given the address when the server listens.

    Raises UsageError without a key on an address that other machines reach, ServiceError if the
    address cannot be used, and LorajobError for a model that does not exist.
    """
    secret = settings.api_key
    keys = [] if secret is None else api_keys(secret.get_secret_value())
    if not keys and not is_loopback(options.host):
        raise UsageError(f"--host {options.host}: other machines can reach it; set LORAJOB_API_KEY")
    listening = bound_socket(options.host, options.port)
    logs.configure()
    # uvicorn raises these signals again when it ends; the models must be stopped after that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with listening:
        asyncio.run(_serve(settings, options, keys, listening, say))


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address. Raises ServiceError if that cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ServiceError(f"--host {host} --port {port}: {error.strerror}") from None
    return listening


def shown_address(listening: socket.socket) -> str:
    """The url of a server that listens there."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(
    settings: Settings,
    options: ServeOptions,
    keys: Sequence[str],
    listening: socket.socket,
    say: Callable[[str], None],
) -> None:
    metrics = ServerMetrics()
    start = functools.partial(
        ModelProcess.start, device=options.device, heard_batch=metrics.decoded
    )
    gb = options.memory_gb
    pool = ModelPool(MEMORY_SHARE * total_memory() if gb is None else gb * 1e9, start)
    catalogue = ModelCatalogue(settings, options.models, pool)
    uploads = _uploads_folder(settings.home.expanduser() / "serve")
    # Starlette writes an upload to a temporary file. The usual folder may be memory, or small.
    tempfile.tempdir = str(uploads)
    glossaries = GlossaryShelf(settings, uploads)
    service = SpeechService(pool, catalogue, metrics, options.limits, uploads, glossaries)
    loading = None
    try:
        models = await catalogue.open()
        loading = asyncio.create_task(_preload(pool, models))
        await _Server(service, keys, listening, say).serve(sockets=[listening])
    finally:
        if loading is not None:
            loading.cancel()
        await pool.close()
        await catalogue.close()
        glossaries.close()
        shutil.rmtree(uploads, ignore_errors=True)
        await asyncio.to_thread(service.traces.close)


class _Server(uvicorn.Server):
    """uvicorn that calls `say` when it listens."""

    def __init__(
        self,
        service: SpeechService,
        keys: Sequence[str],
        listening: socket.socket,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service, keys),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._address = shown_address(listening)
        self._say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets)
        self._say(self._address)


async def _preload(pool: ModelPool, models: Sequence[ServedModel]) -> None:
    """Load the models of `--models`, as far as they fit into memory together."""
    for model in models:
        if not pool.fits(model):
            log.warning("%s: not loaded yet, because memory is full", model.name)
            continue
        try:
            async with pool.use(model):
                pass
        except LorajobError:  # the pool has logged it
            continue


def _uploads_folder(parent: Path) -> Path:
    """A new folder for uploads. Those of servers that were killed are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{UPLOADS}*"):
        owner = left.name.removeprefix(UPLOADS).partition("-")[0]
        if not owner.isdigit() or not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{UPLOADS}{os.getpid()}-", dir=parent))


def total_memory() -> float:
    """The memory of this machine, or of this process's control group if that is less, in bytes."""
    limits = [float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))]
    for path in (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ):
        try:
            limits.append(float(Path(path).read_text("utf-8")))
        except (OSError, ValueError):
            continue
    return min(limits)
