"""The programs of a stack. Each is restarted, with backoff, when it dies."""

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorajob.errors import ServiceError
from lorajob.worker.machine.gpus import Pin
from lorajob.worker.machine.launch import (
    flower_command,
    flower_environment,
    service_environment,
    shared_by_stages,
    worker_command,
)
from lorajob.worker.machine.processes import (
    STEADY_SECONDS,
    Identity,
    backoff,
    identity_of,
    spawn,
)
from lorajob.worker.queues import KINDS
from lorajob.worker.settings import Settings
from lorajob.worker.stack.redis_server import free_port, redis_configuration

SPEECH = "serve"  # name of the service of speech to text


@dataclass(frozen=True)
class Service:
    """How one program is started. `stdin` is for secrets, which must not be in arguments."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    death_signal: signal.Signals = signal.SIGKILL  # sent to it if the stack's process dies
    stdin: str = field(default="", repr=False)
    node: str | None = None  # a worker's name, before the @ of its host


class Kept:
    """A service that is restarted whenever it ends."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.identity: Identity | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started_at = 0.0
        self._due_at = 0.0

    def start(self) -> None:
        """Start it now."""
        service = self.service
        self._process = spawn(
            list(service.command),
            env=service.env,
            log=service.log,
            death_signal=service.death_signal,
            stdin=service.stdin,
        )
        self.identity = identity_of(self._process.pid)
        self._started_at = time.monotonic()

    @property
    def ended(self) -> bool:
        """True if it does not run now."""
        return self._process is None or self._process.poll() is not None

    def tend(self) -> bool:
        """Restart it if it has ended and its backoff has passed; True if it was started."""
        if not self.ended:
            return False
        now = time.monotonic()
        if self.identity is not None:  # it has just ended
            self.identity = None
            steady = now - self._started_at >= STEADY_SECONDS
            self._failures = 1 if steady else self._failures + 1
            self._due_at = now + backoff(self._failures)
        if now < self._due_at:
            return False
        self.start()
        return True


def redis_service(settings: Settings, server: Path, port: int, password: str) -> Service:
    """Redis, which reads its configuration from standard input. Files: LORAJOB_HOME/redis."""
    folder = settings.home / "redis"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Service(
        name="redis",
        command=(str(server), "-"),
        env=os.environ,
        log=settings.home / "log" / "redis.log",
        death_signal=signal.SIGTERM,  # Redis then writes its data and ends
        stdin=redis_configuration(folder, port, password),
    )


def worker_services(settings: Settings, gpus: bool) -> list[Service]:
    """A worker of each queue. Beside a training on a GPU, a stage of another job gets its share.

    Without GPUs a stage may use all cores: a job alone would be slower with half of them, and two
    jobs share all cores without loss, because their threads do not wait by spinning.
    """
    shared = shared_by_stages(settings, len(KINDS) if gpus else 1)
    return [worker_service(shared, queue) for queue in KINDS]


def worker_service(settings: Settings, queue: str) -> Service:
    """A worker of one queue, with a unique name. A gpu worker uses all visible cards."""
    name = f"{queue}-{secrets.token_hex(3)}"
    return Service(
        name=f"{queue} worker",
        command=tuple(worker_command(queue, name=name)),
        env=service_environment(settings) | Pin().environment(),
        log=settings.home / "log" / f"{queue}-worker.log",
        node=name,
    )


def web_service_of(settings: Settings, port: int) -> Service:
    """`lorajob web` on loopback. It makes its password itself."""
    return Service(
        name="web",
        command=(sys.executable, "-m", "lorajob.cli.main", "web", "--port", str(port)),
        env=service_environment(settings),
        log=settings.home / "log" / "web.log",
        death_signal=signal.SIGTERM,
    )


def has_web() -> bool:
    """Whether the packages of the extra `web` are installed."""
    return all(
        importlib.util.find_spec(name)
        for name in ("fastapi", "python_multipart", "starlette", "uvicorn")
    )


def web_port(home: Path) -> int:
    """The port of `lorajob web`, the same each time, as long as another program has not taken it.

    `lorajob up --port` chooses it. LORAJOB_HOME/web/port holds it.
    """
    path = home / "web" / "port"
    try:
        port = int(path.read_text("utf-8"))
        with socket.create_server(("127.0.0.1", port)):
            return port
    except (OSError, ValueError, OverflowError):
        port = free_port()
    _write_web_port(home, port)
    return port


def check_port(option: str, port: int) -> None:
    """Raise ServiceError if this port of loopback, which `option` names, is taken."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise ServiceError(f"{option} {port}: {error.strerror}; name another one") from None


def keep_web_port(home: Path, port: int) -> None:
    """Use this port of loopback from now on. Raises ServiceError if it is taken."""
    check_port("--port", port)
    _write_web_port(home, port)


def _write_web_port(home: Path, port: int) -> None:
    (home / "web").mkdir(parents=True, exist_ok=True, mode=0o700)
    (home / "web" / "port").write_text(f"{port}\n", "utf-8")


def flower_service(settings: Settings, port: int) -> Service:
    """Flower on loopback, behind a password."""
    return Service(
        name="flower",
        command=tuple(flower_command(port, "127.0.0.1")),
        env=flower_environment(settings),
        log=settings.home / "log" / "flower.log",
    )


def speech_service(settings: Settings, port: int) -> Service:
    """`lorajob serve` on loopback, with all promoted models."""
    env = service_environment(settings)
    if settings.api_key is not None:
        env["LORAJOB_API_KEY"] = settings.api_key.get_secret_value()
    return Service(
        name=SPEECH,
        command=(sys.executable, "-m", "lorajob", "serve", "--port", str(port)),
        env=env,
        log=settings.home / "log" / "serve.log",
    )
