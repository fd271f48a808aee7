"""Starting a worker or Flower in place of this process, and how each is started."""

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from typing import NoReturn

from lorajob.errors import ServiceError, UsageError
from lorajob.worker.connect import connect, redis_url
from lorajob.worker.queues import KINDS, classes_of, lanes_of
from lorajob.worker.settings import Settings

CELERY = (sys.executable, "-m", "celery", "-A", "lorajob.worker.app")
FLOWER_PORT = 5555
TASKS_COLUMNS = "args,name,state,result,received,runtime,worker,uuid"  # the job and WER, too


def run_worker(
    queue: str, settings: Settings, concurrency: int = 1, name: str | None = None
) -> NoReturn:
    """Become a worker of `queue`. Raises UsageError for a queue that is none, ServiceError
    without a Redis.
    """
    if queue not in KINDS:
        raise UsageError(f"queue: {queue!r} is unknown; allowed: {', '.join(KINDS)}")
    if concurrency < 1:
        raise UsageError(f"concurrency: {concurrency} is not allowed; at least 1")
    connect(settings)  # only to refuse what is no Redis url: Celery waits for one that is away
    _become(worker_command(queue, concurrency, name), service_environment(settings))


def run_flower(settings: Settings, port: int = FLOWER_PORT, address: str = "127.0.0.1") -> NoReturn:
    """Become Flower, behind basic auth. Raises UsageError where no password is set, ServiceError
    without a Redis or where it cannot listen.
    """
    env = flower_environment(settings)
    connect(settings)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise ServiceError(f"--address {address} --port {port}: {error.strerror}") from None
    _become(flower_command(port, address), env)


def worker_command(queue: str, concurrency: int = 1, name: str | None = None) -> list[str]:
    """Celery's arguments. The node name is unique, however many workers a machine has."""
    name = name or f"{queue}-{secrets.token_hex(3)}"
    options = ["--pool", "prefork", "--concurrency", str(concurrency)]
    options += ["--queues", ",".join(lanes_of(classes_of(queue)))]
    quiet = ["--without-mingle", "--without-gossip"]  # workers here have nothing to tell others
    return [*CELERY, "worker", *options, "-n", f"{name}@%h", "-E", "--loglevel", "INFO", *quiet]


def flower_command(port: int, address: str) -> list[str]:
    """Flower's arguments, which everybody on the machine can read: no password among them."""
    columns = f"--tasks_columns={TASKS_COLUMNS}"
    return [*CELERY, "flower", f"--address={address}", f"--port={port}", columns]


def service_environment(settings: Settings) -> dict[str, str]:
    """This environment, with `settings` as the child will read them."""
    return os.environ | settings.environment() | {"LORAJOB_REDIS_URL": redis_url(settings)}


def flower_environment(settings: Settings) -> dict[str, str]:
    """As `service_environment`, with the user and password for Flower's pages. Raises UsageError
    for a password that is missing or that Flower would misread.
    """
    if settings.flower_password is None:
        raise UsageError("LORAJOB_FLOWER_PASSWORD: not set; Flower is not run without a password")
    user, password = settings.flower_user, settings.flower_password.get_secret_value()
    if not password or "," in password or not user or set(user) & {",", ":"}:
        raise UsageError(
            "LORAJOB_FLOWER_USER and LORAJOB_FLOWER_PASSWORD: must not be empty or hold a comma,"
            " nor the user a colon"
        )
    open_doors = {name for name in os.environ if name.startswith("FLOWER_UNAUTHENTICATED")}
    kept = {k: v for k, v in service_environment(settings).items() if k not in open_doors}
    return kept | {"FLOWER_BASIC_AUTH": f"{user}:{password}"}


def _become(command: list[str], env: Mapping[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, dict(env))
