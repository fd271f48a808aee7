"""Which workers are unfit, and why: a worker whose machine is broken takes no work.

Redis holds the reasons for all workers to read. A file in the worker's temporary folder holds the
same for its own processes, which must not wait for Redis: while it exists, the worker takes no
message. Pool children write how their attempts ended to another file, which the main process reads
(machine/self_check.py).
"""

import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter
from redis import Redis
from redis.exceptions import RedisError

from lorajob.worker.heartbeats import UNFIT, living, new_enough
from lorajob.worker.stopping import STOP_FILE

FLAG = "unfit"
ATTEMPTS = "attempts"
LATEST = 1e11  # seconds since the epoch; a later time is no time
# Faults that say something about the machine, unlike a network or a kill.
OF_A_MACHINE = frozenset({"files", "disk", "card", "install", "crash", "native", "stage"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unfit:
    """Why a worker takes no work, and since when, in seconds since the epoch."""

    why: str
    since: float


@dataclass(frozen=True)
class Ended:
    """How an attempt ended on this worker. `fault` is None if it says nothing of the machine."""

    job_id: str
    fault: str | None
    why: str
    seconds: float


def unfit_workers(redis: Redis, names: Iterable[str] | None = None) -> dict[str, Unfit]:
    """The unfit workers among `names`, or all that ever reported."""
    found: dict[str, Unfit] = {}
    wanted = None if names is None else set(names)
    for name, text in cast("dict[str, str]", redis.hgetall(UNFIT)).items():
        if wanted is None or name in wanted:
            with suppress(ValueError):  # of another version, or damaged
                unfit = TypeAdapter(Unfit).validate_json(text)
                if 0 <= unfit.since < LATEST:
                    found[name] = unfit
    return found


def serving(redis: Redis, queue: str, format: int = 0) -> list[str]:
    """The names of the live workers of a kind or class of queues that take work, and that are new
    enough for jobs of a format.
    """
    names = new_enough(redis, living(redis, queue), format)
    unfit = unfit_workers(redis, names)
    return [name for name in names if name not in unfit]


def report_fitness(redis: Redis, worker: str, unfit: Unfit | None) -> None:
    """Tell all others whether this worker is fit. An error of Redis is only logged."""
    try:
        if unfit is None:
            redis.hdel(UNFIT, worker)
        else:
            redis.hset(UNFIT, worker, json.dumps(asdict(unfit)))
    except RedisError as error:
        logger.info("the worker's state is not reported: %s", error)


def flag(why: str) -> None:
    """Have this worker take no further message."""
    _write(FLAG, why, "w")


def unflag() -> None:
    """Let this worker take messages again."""
    folder = _folder()
    if folder is not None:
        (folder / FLAG).unlink(missing_ok=True)


def flagged() -> str | None:
    """Why this worker takes no message; None if it does."""
    folder = _folder()
    if folder is None:
        return None
    try:
        return (folder / FLAG).read_text("utf-8", errors="replace")
    except OSError:
        return None


def may_consume(otherwise: Callable[[], bool]) -> Callable[[], bool]:
    """Whether the worker may take a message: not while it is unfit."""
    return lambda: flagged() is None and otherwise()


def note(ended: Ended) -> None:
    """Note the end of an attempt. After a fault of the machine the worker pauses for a check."""
    if ended.fault in OF_A_MACHINE:
        flag(f"this machine is checked after: {ended.why}")
    _write(ATTEMPTS, json.dumps(asdict(ended)) + "\n", "a")


def take_notes() -> list[Ended]:
    """The attempts that ended since the last call."""
    folder = _folder()
    if folder is None or not (folder / ATTEMPTS).exists():
        return []
    try:
        taken = folder / f"{ATTEMPTS}.taken"
        (folder / ATTEMPTS).rename(taken)
        lines = taken.read_text("utf-8").splitlines()
        return [TypeAdapter(Ended).validate_json(line) for line in lines]
    except (OSError, ValueError) as error:
        logger.info("the ends of attempts cannot be read: %s", error)
        return []


def _folder() -> Path | None:
    path = os.environ.get(STOP_FILE)
    return None if path is None else Path(path).parent


def _write(name: str, text: str, mode: str) -> None:
    folder = _folder()
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, exist_ok=True)  # a cleaner of /tmp may have removed it
        with (folder / name).open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        logger.warning("%s in %s cannot be written: %s", name, folder, error)
