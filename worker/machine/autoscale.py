"""Runs as many workers on this machine as there is work, within limits.

The scaler starts workers and ends none. A worker above the minimum ends by itself when it has been
idle for a while (idle.py). Only the worker itself knows that without a race, so scaling interrupts
no stage.
"""

import logging
import math
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from lorajob import logs
from lorajob.errors import UsageError
from lorajob.worker.connect import connect
from lorajob.worker.machine.gpus import Pin, pins
from lorajob.worker.machine.launch import WorkerOptions, launch, shared_by_stages
from lorajob.worker.machine.processes import STEADY_SECONDS, backoff, end, identity_of, spawn
from lorajob.worker.queues import KINDS, QUEUES
from lorajob.worker.records.records import QUEUED, RUNNING, Records
from lorajob.worker.records.standing import Standing
from lorajob.worker.settings import SETTLE_SECONDS, Settings
from lorajob.worker.stopping import handled, leave_terminal

LOOK_SECONDS = 2.0  # between two looks at the records
# The pause is also at least this many times the last look's time: with ten thousand records the
# scaler looks less often.
LOOK_SHARE = 10.0
CHUNK = 200  # records read at a time

logger = logging.getLogger(__name__)


def decide(queued: int, running: int, least: int, most: int) -> int:
    """The number of workers to run: one for each job that waits or runs, within the limits."""
    return min(max(queued + running, least), most)


@dataclass(frozen=True)
class Started:
    """A worker that this scaler started."""

    node: str  # its name, before the @ of its host
    pin: Pin
    process: subprocess.Popen[bytes]
    lasting: bool  # part of the minimum, which does not end when idle
    started_at: float  # monotonic


class Scaler:
    """The workers that one `lorajob autoscale` has started."""

    def __init__(
        self, queue: str, settings: Settings, least: int, most: int, places: list[Pin], idle: float
    ) -> None:
        self._queue = queue
        self._settings = shared_by_stages(settings, most)
        self._limits = least, most
        # With fewer workers than cards, the largest cards can run the most jobs.
        largest = sorted(places, key=_memory, reverse=True)[:most]
        self._places = [pin for pin in places if pin in largest]
        self._share = math.ceil(most / len(self._places))  # most workers per place
        self._idle = idle
        self._workers: list[Started] = []
        self._failures = 0
        self._due_at = 0.0

    def look(self, redis: Redis) -> None:
        """Start the workers that are missing. Raises RedisError."""
        self._reap()
        least, most = self._limits
        alike = len({pin.memory_gb for pin in self._places}) == 1
        now = demand(redis, self._queue, most if alike else None, self._largest_gb())
        have = len(self._workers)
        free = [worker.pin for worker in self._workers if worker.node not in now.running]
        unmet = without_worker(now.waiting, free)
        missing = decide(len(unmet), have, least, most) - have
        if missing > 0 and time.monotonic() >= self._due_at:
            try:
                self._start(missing, unmet)
            except OSError as error:  # out of memory or processes; running workers continue
                self._fail()
                logger.warning("a worker could not be started: %s", error)

    def close(self, hurried: threading.Event) -> None:
        """Stop all workers. They give their stages back."""
        left = [identity for w in self._workers if (identity := identity_of(w.process.pid))]
        end(left, self._settings.grace_seconds + 2 * SETTLE_SECONDS, hurried.is_set)
        for worker in self._workers:
            worker.process.wait()

    def _start(self, count: int, unmet: list[int]) -> None:
        """Start up to `count` workers.

        A job for which all large enough cards are in use gets no worker now.
        """
        for needed in unmet + [0] * (self._limits[0] - len(self._workers)):
            used = [worker.pin for worker in self._workers]
            pin = least_used(self._places, used, needed, self._share)
            if pin is None:
                continue
            node = f"{self._queue}-{secrets.token_hex(3)}"
            lasting = sum(worker.lasting for worker in self._workers) < self._limits[0]
            options = WorkerOptions(idle_seconds=None if lasting else self._idle)
            command, env = launch(self._queue, self._settings, options, pin, node)
            process = spawn(command, env=env, log=None, death_signal=signal.SIGTERM)
            started = Started(node, pin, process, lasting, time.monotonic())
            self._workers.append(started)
            logger.info("%s starts; %d now", node, len(self._workers))
            count -= 1
            if not count:
                return

    def _reap(self) -> None:
        for worker in list(self._workers):
            code = worker.process.poll()
            if code is None:
                continue
            self._workers.remove(worker)
            now = time.monotonic()
            logger.info("%s ended with %d; %d left", worker.node, code, len(self._workers))
            steady = now - worker.started_at >= STEADY_SECONDS
            if code == 0 or steady:
                self._failures = 0
            if code != 0:  # wait before the next start, which may fail the same way
                self._fail()

    def _fail(self) -> None:
        self._failures += 1
        self._due_at = time.monotonic() + backoff(self._failures)

    def _largest_gb(self) -> float | None:
        sizes = [pin.memory_gb for pin in self._places]
        return None if None in sizes else max(size for size in sizes if size is not None)


def without_worker(waiting: Sequence[int], free: Sequence[Pin]) -> list[int]:
    """The waiting jobs that the free workers cannot take, the largest first.

    A job is given as the GB that it needs.
    """
    left = sorted(free, key=_memory)
    unmet = []
    for needed in sorted(waiting, reverse=True):
        fitting = next((pin for pin in left if _memory(pin) >= needed), None)
        if fitting is None:
            unmet.append(needed)
        else:
            left.remove(fitting)
    return unmet


def least_used(places: list[Pin], used: list[Pin], needed_gb: float, share: int) -> Pin | None:
    """The place with the fewest workers; None if no place is suitable.

    A suitable place has at least `needed_gb` of memory and fewer than `share` workers.
    """
    fitting = [it for it in places if _memory(it) >= needed_gb and used.count(it) < share]
    return min(fitting, key=used.count, default=None)


def _memory(pin: Pin) -> float:
    """The memory in GB; infinite if it is unknown."""
    return math.inf if pin.memory_gb is None else pin.memory_gb


def run_autoscale(
    queue: str,
    settings: Settings,
    least: int,
    most: int,
    gpus: str = "auto",
    idle: float | None = None,
) -> None:
    """Scale until told to stop by a signal, then end all workers; a second Ctrl-C kills them.

    A closing terminal and a service manager may send several signals, which kill no worker.

    Raises UsageError for invalid limits, and ServiceError if no URL of a Redis is known.
    """
    if queue not in KINDS or not 0 <= least <= most or most < 1:
        raise UsageError(f"autoscale: {queue} {least} to {most} is not allowed")
    if gpus == "all" and most > 1:
        raise UsageError(
            f"--gpus all: one worker has all GPUs; --max {most} would be as many on the same ones."
            " Give --max 1, or --gpus auto for one on each"
        )
    idle = settings.scale_down_seconds if idle is None else idle
    if not 0 < idle < math.inf:
        raise UsageError(f"idle: {idle:g} is not allowed; over 0 seconds")
    places = pins(gpus) if queue == "gpu" else [Pin()]
    logs.configure()
    redis = connect(settings)
    scaler = Scaler(queue, settings, least, most, places, idle)
    told, hurried = threading.Event(), threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        if told.is_set() and number in (signal.SIGINT, signal.SIGQUIT):
            hurried.set()
        told.set()

    for number in handled(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        while not told.is_set():
            began = time.monotonic()
            try:
                scaler.look(redis)
            except RedisError as error:
                logger.warning("the queues cannot be read: %s", error)
            told.wait(max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - began)))
    finally:
        scaler.close(hurried)


@dataclass(frozen=True)
class Demand:
    """The jobs whose stage waits, each as the GB of the card that it needs (0: any card), and the
    names of the nodes that run one now.
    """

    waiting: tuple[int, ...]
    running: tuple[str, ...]


def demand(redis: Redis, kind: str, enough: int | None, largest_gb: float | None = None) -> Demand:
    """The jobs that wait for and run on `kind`. At most `enough` waiting jobs are read.

    Jobs that need a card larger than `largest_gb` are left to other machines.
    """
    waiting: list[int] = []
    for at in _standings(redis, QUEUED, kind):
        fits = largest_gb is None or at.memory_gb <= largest_gb
        if at.waits and fits:
            waiting.append(at.memory_gb)
            if len(waiting) == enough:
                break
    running = [
        (at.worker or "").partition("@")[0] for at in _standings(redis, RUNNING, kind) if at.runs
    ]
    return Demand(tuple(waiting), tuple(running))


def _standings(redis: Redis, index: str, kind: str) -> Iterator[Standing]:
    """The standing of each job of a sorted set that is at a stage of `kind`, newest first."""
    records = Records(redis)
    start = 0
    while ids := cast("list[str]", redis.zrevrange(index, start, start + CHUNK - 1)):
        for at in records.standings(ids).values():
            if at.stage is not None and QUEUES[at.stage] == kind:
                yield at
        start += CHUNK
