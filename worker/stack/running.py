"""The process of a running stack: starts its services, keeps them running and ends them."""

import os
import secrets
import signal
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

from pydantic import SecretStr
from redis import Redis

from lorajob.errors import ServiceError
from lorajob.worker.connect import connect, service_errors
from lorajob.worker.heartbeats import living
from lorajob.worker.machine.gpus import devices
from lorajob.worker.machine.processes import Identity, end, identity_of
from lorajob.worker.queues import KINDS
from lorajob.worker.settings import Settings
from lorajob.worker.stack.info import StackInfo, forget, only_stack
from lorajob.worker.stack.redis_server import find_server, free_port
from lorajob.worker.stack.rotation import Rotation
from lorajob.worker.stack.services import (
    SPEECH,
    Kept,
    check_port,
    flower_service,
    has_web,
    redis_service,
    speech_service,
    web_port,
    web_service_of,
    worker_services,
)
from lorajob.worker.stopping import handled, leave_terminal

TICK_SECONDS = 0.2
READY_SECONDS = 120.0
PORT_TRIES = 3
EXTRA_SECONDS = 15.0  # added to a stage's grace, for a worker to end
REDIS_END_SECONDS = 10.0

OnReady = Callable[[StackInfo], None]


class RunningStack:
    """The services of one `lorajob up`. The settings' `home` must be absolute and exist.

    With `serve_port`, `lorajob serve` is one of them, on this port of loopback.
    """

    def __init__(
        self,
        settings: Settings,
        flower: bool,
        on_ready: OnReady | None,
        web: bool = True,
        serve_port: int | None = None,
    ) -> None:
        self._settings = settings
        self._home = settings.home
        self._with_flower = flower
        self._with_web = web and has_web()
        self._web_url: str | None = None
        self._serve_port = serve_port
        self._on_ready = on_ready
        self._told = False
        self._hurried = False
        self._redis: Kept | None = None
        self._others: list[Kept] = []
        self._flower_url: str | None = None

    def run(self) -> None:
        """Run until told to stop, then end all services and return.

        Raises ServiceError if a stack is up already, or if this one does not come up, for example
        because a GPU driver hangs or a port is taken.
        """
        with only_stack(self._home):
            end_leavings(self._home)
            for number in handled(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, self._on_signal)
            try:
                self._start()
                self._keep()
            finally:
                self._end()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        # A closing terminal and a service manager may send several signals. Only a second Ctrl-C
        # is a wish not to wait.
        if self._told and number == signal.SIGINT:
            self._hurried = True
        self._told = True

    def _start(self) -> None:
        # It fails if a driver hangs: a worker would train on the CPU.
        gpus = bool(devices())
        if self._serve_port is not None:
            check_port("--serve-port", self._serve_port)
        if self._settings.redis_url is None:
            self._start_redis()
        with service_errors(self._settings):
            connect(self._settings).ping()
        password = self._settings.flower_password or SecretStr(secrets.token_urlsafe(18))
        self._settings = self._settings.model_copy(update={"flower_password": password})
        services = worker_services(self._settings, gpus)
        if self._with_flower:
            port = free_port()
            self._flower_url = f"http://127.0.0.1:{port}/"
            services.append(flower_service(self._settings, port))
        if self._serve_port is not None:
            services.append(speech_service(self._settings, self._serve_port))
        self._save()  # workers, also those started by hand, read the url of Redis from it
        for service in services:
            kept = Kept(service)
            kept.start()
            self._others.append(kept)
        self._save()

    def _start_web(self) -> None:
        if not self._with_web:
            return
        port = web_port(self._home)
        kept = Kept(web_service_of(self._settings, port))
        kept.start()
        self._others.append(kept)
        self._web_url = f"http://127.0.0.1:{port}"

    def _start_redis(self) -> None:
        """Start Redis and wait for its answer. If its port was taken, try another."""
        server = find_server()
        for _ in range(PORT_TRIES):
            port, password = free_port(), secrets.token_urlsafe(24)
            url = SecretStr(f"redis://:{password}@127.0.0.1:{port}/0")
            settings = self._settings.model_copy(update={"redis_url": url})
            self._redis = Kept(redis_service(settings, server, port, password))
            self._redis.start()
            if self._answers(settings):
                self._settings = settings
                return
            end(self._running(self._redis), REDIS_END_SECONDS)
        raise ServiceError(f"Redis did not start; see {self._home / 'log' / 'redis.log'}")

    def _answers(self, settings: Settings) -> bool:
        """Wait until the new Redis answers; False once it has ended."""
        deadline = time.monotonic() + READY_SECONDS
        redis = connect(settings)
        while self._redis is not None and not self._redis.ended and time.monotonic() < deadline:
            try:
                with service_errors(settings):
                    redis.ping()
                return True
            except ServiceError:  # it is starting, or still reading its file
                time.sleep(TICK_SECONDS)
        return False

    def _keep(self) -> None:
        """Until told to stop, restart services that ended. Call `on_ready` once all answer."""
        deadline = time.monotonic() + READY_SECONDS
        redis, ready = connect(self._settings), False
        logs = Rotation(self._home / "log", self._settings)
        while not self._told:
            logs.tend()
            if any([kept.tend() for kept in self._all()]):
                self._save(ready)
            if not ready:
                missing = self._missing(redis)
                if not missing:
                    ready = True
                    # Last, so that it delays nothing: it need not answer yet.
                    self._start_web()
                    info = self._save(ready)
                    if self._on_ready is not None:
                        self._on_ready(info)
                elif time.monotonic() > deadline:
                    raise ServiceError(
                        f"not up after {READY_SECONDS:.0f} s: {', '.join(missing)}; "
                        f"see the logs in {self._home / 'log'}"
                    )
            time.sleep(TICK_SECONDS)

    def _missing(self, redis: Redis) -> list[str]:
        """The names of the services that do not answer yet."""
        try:
            with service_errors(self._settings):
                names = [name for queue in KINDS for name in living(redis, queue)]
        except ServiceError:
            return ["redis"]
        here = {name.partition("@")[0] for name in names}
        services = [kept.service for kept in self._others]
        missing = [one.name for one in services if one.node is not None and one.node not in here]
        login = self._settings.flower_user, self._settings.flower_password
        if self._flower_url is not None and not healthy(self._flower_url, *login):
            missing.append("flower")
        if self._serve_url is not None and not answers(f"{self._serve_url}/health"):
            missing.append(SPEECH)
        return missing

    @property
    def _serve_url(self) -> str | None:
        return None if self._serve_port is None else f"http://127.0.0.1:{self._serve_port}"

    def _save(self, ready: bool = False) -> StackInfo:
        """Write the present state to up.json."""
        settings, supervisor = self._settings, identity_of(os.getpid())
        if settings.redis_url is None or settings.flower_password is None or supervisor is None:
            raise ServiceError("the stack cannot be described: is /proc mounted?")
        password = settings.flower_password.get_secret_value()
        info = StackInfo(
            redis_url=settings.redis_url.get_secret_value(),
            flower_url=self._flower_url,
            flower_user=settings.flower_user if self._with_flower else None,
            flower_password=password if self._with_flower else None,
            web_url=self._web_url,
            serve_url=self._serve_url,
            supervisor=supervisor,
            processes={
                kept.service.name: kept.identity
                for kept in self._all()
                if kept.identity is not None
            },
            ready=ready,
        )
        info.save(self._home)
        return info

    def _end(self) -> None:
        """End workers and Flower first, then Redis: workers need it to give their stages back."""
        patience = self._settings.grace_seconds + EXTRA_SECONDS
        end(self._running(*self._others), patience, self._tend_redis)
        if self._redis is not None:
            end(self._running(self._redis), REDIS_END_SECONDS, lambda: self._hurried)
        forget(self._home)

    def _tend_redis(self) -> bool:
        """Keep Redis up while the workers end; True once they are to be killed.

        A service manager may have signalled every process of the stack, Redis too.
        """
        if self._redis is not None:
            with suppress(OSError):  # no process can be started; the workers end all the same
                self._redis.tend()
        return self._hurried

    def _all(self) -> list[Kept]:
        return ([self._redis] if self._redis is not None else []) + self._others

    def _running(self, *kept: Kept) -> list[Identity]:
        return [one.identity for one in kept if one.identity is not None]


def end_leavings(home: Path) -> None:
    """End the processes that a killed stack may have left, and remove its up.json."""
    stale = StackInfo.load(home)
    if stale is not None:
        end(stale.processes.values(), REDIS_END_SECONDS)
        forget(home)


def healthy(flower_url: str, user: str, password: SecretStr | None) -> bool:
    """True when Flower answers to its user."""
    login = f"{user}:{password.get_secret_value() if password else ''}"
    basic = f"Basic {b64encode(login.encode()).decode()}"
    return answers(f"{flower_url}healthcheck", {"Authorization": basic})


def answers(url: str, headers: Mapping[str, str] | None = None) -> bool:
    """True when a GET of `url` has the status 200."""
    request = urllib.request.Request(url, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
