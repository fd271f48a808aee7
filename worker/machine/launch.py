"""Commands and environments of workers and Flower, and their start in place of this process.

Several workers of one command start and stop together.
"""

import math
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from lorajob import logs
from lorajob.errors import ServiceError, UsageError
from lorajob.worker.connect import connect, redis_url, shown
from lorajob.worker.machine.gpus import Pin, pins
from lorajob.worker.machine.idle import IDLE_SECONDS
from lorajob.worker.machine.processes import spawn
from lorajob.worker.queues import KINDS, classes_of, lanes_of
from lorajob.worker.settings import Settings
from lorajob.worker.stopping import handled

CELERY = (sys.executable, "-m", "celery", "-A", "lorajob.worker.app")
FLOWER = (*CELERY[:-1], "lorajob.worker.flower_app", "flower")
FLOWER_PORT = 5555
TASKS_COLUMNS = "args,name,state,result,received,runtime,worker,uuid"  # args: job; result: rates

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
Launch = tuple[list[str], Mapping[str, str]]  # command, environment


@dataclass(frozen=True)
class WorkerOptions:
    """How the workers of one command are run."""

    concurrency: int = 1  # stages at a time
    autoscale: tuple[int, int] | None = None  # most and least stages, instead of concurrency
    gpus: str = "auto"
    idle_seconds: float | None = None  # end after this time without work; None: never


def run_worker(
    queue: str, settings: Settings, options: WorkerOptions = WorkerOptions()
) -> NoReturn:
    """Become a worker of `queue`, or the parent of one worker for each GPU, and exit as they do.

    Raises UsageError for an unknown queue or GPU or an invalid number, and ServiceError if there is
    no url of a Redis.
    """
    if queue not in KINDS:
        raise UsageError(f"queue: {queue!r} is unknown; allowed: {', '.join(KINDS)}")
    _check(options)
    connect(settings)  # only checks the url; Celery waits for a Redis that is unavailable
    pinned = pins(options.gpus) if queue == "gpu" else [Pin()]
    stages = len(pinned) * (options.autoscale or (options.concurrency, 0))[0]
    shared = shared_by_stages(settings, stages)
    launches = [launch(queue, shared, options, pin) for pin in pinned]
    _say_start(queue, settings, options, pinned)
    if len(launches) == 1:
        _become(*launches[0])
    sys.exit(run_together(launches))


def shared_by_stages(settings: Settings, stages: int) -> Settings:
    """The settings of workers of which `stages` stages can run at a time."""
    return settings.model_copy(update={"stages_here": max(settings.stages_here, stages)})


def _say_start(queue: str, settings: Settings, options: WorkerOptions, pinned: list[Pin]) -> None:
    """One line on standard error. Celery's lines about Redis and readiness follow it."""
    if logs.wants_json():
        return
    stages = options.concurrency if options.autoscale is None else options.autoscale[0]
    many = f"{len(pinned)} workers" if len(pinned) > 1 else "worker"
    gpus = [pin.index for pin in pinned if pin.index]
    place = f", GPU {', '.join(gpus)}" if gpus else ""
    print(
        f"lorajob: {many} of the queue {queue}{place}, {stages} stage{'s' * (stages > 1)} at a "
        f"time, Redis {shown(redis_url(settings))}; Ctrl-C stops after a checkpoint",
        file=sys.stderr,
        flush=True,
    )


def launch(
    queue: str, settings: Settings, options: WorkerOptions, pin: Pin, name: str | None = None
) -> Launch:
    """Command and environment of one worker."""
    command = worker_command(
        queue, options.concurrency, name, memory_gb=pin.memory_gb, autoscale=options.autoscale
    )
    env = service_environment(settings) | pin.environment()
    env.pop(IDLE_SECONDS, None)
    if options.idle_seconds is not None:
        env[IDLE_SECONDS] = str(options.idle_seconds)
    return command, env


def _check(options: WorkerOptions) -> None:
    if options.concurrency < 1:
        raise UsageError(f"concurrency: {options.concurrency} is not allowed; at least 1")
    most, least = options.autoscale or (1, 0)
    if not 0 <= least <= most or most < 1:
        raise UsageError(f"autoscale: {most},{least} is not allowed; MAX,MIN with MAX >= MIN >= 0")
    if options.idle_seconds is not None and not 0 < options.idle_seconds < math.inf:
        raise UsageError(f"exit-when-idle: {options.idle_seconds:g} is not allowed; over 0 seconds")


def run_flower(settings: Settings, port: int = FLOWER_PORT, address: str = "127.0.0.1") -> NoReturn:
    """Become Flower, behind basic auth.

    Raises UsageError if no password is set, and ServiceError if no URL of a Redis is known or
    Flower cannot listen.
    """
    env = flower_environment(settings)
    connect(settings)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise ServiceError(f"--address {address} --port {port}: {error.strerror}") from None
    _become(flower_command(port, address), env)


def worker_command(
    queue: str,
    concurrency: int = 1,
    name: str | None = None,
    *,
    memory_gb: float | None = None,
    autoscale: tuple[int, int] | None = None,
) -> list[str]:
    """The command of a worker. Its node name is unique on the machine.

    The worker serves no queues for cards larger than `memory_gb`.
    """
    name = name or f"{queue}-{secrets.token_hex(3)}"
    options = ["--pool", "prefork", "--concurrency", str(concurrency)]
    if autoscale is not None:
        options = ["--pool", "prefork", f"--autoscale={autoscale[0]},{autoscale[1]}"]
    options += ["--queues", ",".join(lanes_of(classes_of(queue, memory_gb)))]
    quiet = ["--without-mingle", "--without-gossip"]  # workers need not know of each other
    # -q leaves out Celery's banner, which lists each lane of the queues.
    worker = [*CELERY, "-q", "worker", *options]
    return [*worker, "-n", f"{name}@%h", "-E", "--loglevel", "INFO", *quiet]


def flower_command(port: int, address: str) -> list[str]:
    """The command of Flower. All users can read it, so it holds no password."""
    columns = f"--tasks_columns={TASKS_COLUMNS}"
    return [*FLOWER, f"--address={address}", f"--port={port}", columns]


def service_environment(settings: Settings) -> dict[str, str]:
    """This environment, with `settings` as the child will read them."""
    return os.environ | settings.environment() | {"LORAJOB_REDIS_URL": redis_url(settings)}


def flower_environment(settings: Settings) -> dict[str, str]:
    """As `service_environment`, with the user and password for Flower's pages.

    Raises UsageError for a password that is missing or that Flower would parse wrongly.
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


def run_together(launches: list[Launch]) -> int:
    """Start one process for each launch, pass signals on to all, and wait for all.

    Returns 0, or the exit code of the first that failed; that is 128 plus the signal's number if a
    signal ended it. A process that ends is not started again. If this process is killed, the kernel
    sends SIGTERM to the others. Call it from the main thread.
    """
    children: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        told.append(number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in handled(*FORWARDED)}
    try:
        for command, env in launches:
            if told:
                break
            children.append(spawn(command, env=env, log=None, death_signal=signal.SIGTERM))
            if told:  # a signal came while the process started
                children[-1].send_signal(told[-1])
        codes = [child.wait() for child in children]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    # A process that was signalled before it had set up its handlers ends with the signal's number.
    wanted = {-number for number in told}
    failures = [code for code in codes if code and code not in wanted]
    return next((code if code > 0 else 128 - code for code in failures), 0)
