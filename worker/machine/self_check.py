"""A worker's check of its own machine: files, disk, GPU. It takes no work while the check fails.

A worker that fails fast several times in a row takes itself out as well, for a time that doubles,
since a check cannot know every fault. Fast failure would otherwise attract all waiting jobs.
"""

import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from lorajob.errors import ServiceError
from lorajob.worker import health
from lorajob.worker.health import Ended, Unfit
from lorajob.worker.machine.gpus import Pin, devices, run_on_gpu
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from lorajob.worker.ticker import Ticker

LOOK_SECONDS = 0.5  # between two looks at what ended
CHECK_SECONDS = 15.0  # between two checks
FAST_SECONDS = 60.0  # a failure within this time is fast
FAST_FAILURES = 3  # in a row, of at least two jobs
FIRST_OUT_SECONDS = 60.0
LONGEST_OUT_SECONDS = 900.0
SAMPLE = 5  # jobs whose files are looked for
BLOCK = bytes(1 << 16)
PROBE_SECONDS = 120.0
# Computes on the card in a process of its own, since a worker never loads torch.
PROBE = "import torch; assert float(torch.ones(64, device='cuda').sum()) == 64"

logger = logging.getLogger(__name__)
complaints: dict[str, str] = {}  # by the name of a thread that cannot do its work


def complain(source: str, why: str | None) -> None:
    """A thread of this worker cannot do its work, or, with None, can again."""
    if why is None:
        complaints.pop(source, None)
    else:
        complaints[source] = why


def find_fault(settings: Settings, records: Records, cards: list[Pin]) -> str | None:
    """What is wrong with this machine, in one line; None if the check passes."""
    return (
        next(iter(complaints.values()), None)
        or _files_fault(settings, records)
        or _disk_fault(settings)
        or (_card_fault(cards) if cards else None)
    )


def _files_fault(settings: Settings, records: Records) -> str | None:
    """Whether the files of no job that waits or runs can be seen here."""
    missing: list[str] = []
    try:
        sample = records.load_many(records.active(SAMPLE))
    except RedisError:
        return None  # the reconciler complains if that lasts
    for record in sample:
        if record.location.remote:
            return None
        why = "cannot be seen here; is the share mounted?"
        try:
            if (Path(record.folder) / "spec.json").is_file():
                return None
        except OSError as error:  # a share whose server is away, or one job of another user
            why = f"cannot be read: {error.strerror}"
        missing.append(f"LORAJOB_ARTIFACTS: {record.folder} of job {record.id} {why}")
    return missing[0] if missing else None


def _disk_fault(settings: Settings) -> str | None:
    least = settings.min_free_gb * 1e9
    for name, folder in (("LORAJOB_ARTIFACTS", settings.jobs), ("LORAJOB_HOME", settings.home)):
        try:
            if not folder.is_dir():
                continue  # it is made for the first job
            free = shutil.disk_usage(folder).free
            with tempfile.TemporaryFile(dir=folder, prefix=".lorajob-check-") as file:
                file.write(BLOCK)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return f"{name}: {folder} cannot be written: {error.strerror}"
        if free < least:
            return (
                f"{name}: only {free / 1e9:.2f} GB free in {folder}; at least "
                f"{settings.min_free_gb:g} are needed (LORAJOB_MIN_FREE_GB)"
            )
    return None


def _card_fault(cards: list[Pin]) -> str | None:
    try:
        found = {pin.visible for pin in devices()}
    except ServiceError as error:
        return str(error)
    lost = [pin for pin in cards if pin.visible not in found]
    return f"nvidia-smi lists GPU {lost[0].index} ({lost[0].visible}) no more" if lost else None


def _computes() -> str | None:
    """Why the card does not compute; None if it does."""
    command = [sys.executable, "-c", PROBE]
    try:
        done = run_on_gpu(command, PROBE_SECONDS)
    except OSError as error:
        return f"the GPU does not compute: {error}"
    if done.late:
        return f"the GPU does not compute: no answer within {PROBE_SECONDS:.0f} s"
    lines = done.errors.strip().splitlines() or [f"its program ended with {done.code}"]
    return None if done.code == 0 else f"the GPU does not compute: {lines[-1][-300:]}"


class SelfCheck:
    """Watches one worker's machine from its main process."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        worker: str,
        gpu: bool,
        told: Callable[[Unfit | None], None],
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._records = Records(redis, settings.place_of)
        self._worker = worker
        self._gpu = gpu
        self._told = told  # called when the worker becomes unfit, and with None when it is fit
        self._cards: list[Pin] | None = None
        self._row: list[Ended] = []  # the fast failures in a row
        self._outs = 0
        self._out_until = 0.0  # monotonic
        self._checked = float("-inf")
        self._reported = float("-inf")
        self._unfit: Unfit | None = None
        self.ticker = Ticker("self-check", LOOK_SECONDS, self.turn, self._leave, 2 * LOOK_SECONDS)

    def turn(self) -> None:
        """Hear what ended; check if that is due."""
        faults = self._hear(health.take_notes())
        due = time.monotonic() - self._checked >= min(CHECK_SECONDS, self._settings.lease_seconds)
        if not faults and not due and not (complaints and self._unfit is None):
            return
        why = self._check(any(ended.fault == "card" for ended in faults))
        self._checked = time.monotonic()
        if why is None:
            health.unflag()
        else:
            health.flag(why)
        self._tell(why)

    def _hear(self, notes: list[Ended]) -> list[Ended]:
        for ended in notes:
            if ended.fault in health.OF_A_MACHINE and ended.seconds < FAST_SECONDS:
                self._row.append(ended)
            else:
                self._row.clear()
                self._outs = 0
        many = len(self._row) >= FAST_FAILURES
        if many and len({ended.job_id for ended in self._row}) > 1:
            pause = min(FIRST_OUT_SECONDS * 2**self._outs, LONGEST_OUT_SECONDS)
            self._out_until = time.monotonic() + pause
            self._outs += 1
        return [ended for ended in notes if ended.fault in health.OF_A_MACHINE]

    def _check(self, probe: bool) -> str | None:
        if self._cards is None:
            self._cards = self._own_cards()
        why = find_fault(self._settings, self._records, self._cards)
        if why is None and probe and self._cards:
            why = _computes()
        if why is None and time.monotonic() < self._out_until and self._row:
            last = self._row[-1].why
            why = f"{len(self._row)} attempts in a row failed at once; the last one: {last}"
        elif self._out_until and time.monotonic() >= self._out_until:
            self._row, self._out_until = self._row[-FAST_FAILURES + 1 :], 0.0
        return why

    def _own_cards(self) -> list[Pin]:
        if not self._gpu:
            return []
        try:
            return devices()
        except ServiceError:
            return []

    def _tell(self, why: str | None) -> None:
        before = self._unfit
        if why is None:
            self._unfit = None
        elif before is None or before.why != why:
            self._unfit = Unfit(why, before.since if before else time.time())
        now = time.monotonic()
        if self._unfit != before or now - self._reported >= CHECK_SECONDS:
            health.report_fitness(self._redis, self._worker, self._unfit)
            self._reported = now
        if why is not None and (before is None or before.why != why):
            logger.error("this worker takes no work: %s", why)
            self._told(self._unfit)
        elif why is None and before is not None:
            logger.warning("this worker takes work again; it did not because of: %s", before.why)
            self._told(None)

    def _leave(self) -> None:
        health.report_fitness(self._redis, self._worker, None)


class Silence:
    """Complains for a thread that has not done its work for a lease."""

    def __init__(self, source: str, lease_seconds: float) -> None:
        self._source = source
        self._lease_seconds = lease_seconds
        self._since: float | None = None
        self._lock = threading.Lock()

    def failed(self, why: str) -> None:
        """The thread's turn failed."""
        with self._lock:
            now = time.monotonic()
            self._since = self._since or now
            if now - self._since >= self._lease_seconds:
                complain(self._source, f"{self._source}: cannot do its work: {why}")

    def worked(self) -> None:
        """The thread's turn succeeded."""
        with self._lock:
            self._since = None
            complain(self._source, None)
