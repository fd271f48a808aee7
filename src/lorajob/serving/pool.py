"""Loads models on demand. The longest unused one is unloaded if memory is full."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lorajob.errors import LorajobError
from lorajob.serving.models import ServedModel
from lorajob.serving.process import ModelCrashed, ModelProcess

# Estimate of what a process holds besides its weights: libraries, features, buffers.
BESIDE_WEIGHTS = 400e6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a model that failed is started again

log = logging.getLogger(__name__)

Start = Callable[[ServedModel], Awaitable[ModelProcess]]


class ModelTooLarge(LorajobError):
    """A model alone needs more than the memory limit."""

    kind = "memory"


class ModelResting(LorajobError):
    """A model's process failed a short time ago and has not been restarted yet."""

    kind = "crash"

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass
class _Slot:
    """One model that is loaded, loads, or is being unloaded."""

    model: ServedModel
    bytes: float
    task: "asyncio.Task[ModelProcess]"
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    leaving: bool = False  # takes no new requests; ends when its users have


@dataclass
class _Rest:
    """Failed starts of a model in a row."""

    failures: int
    until: float
    error: LorajobError


class ModelPool:
    """Runs the processes of models. `limit` is in bytes.

    Use it in one event loop.
    """

    def __init__(self, limit: float, start: Start = ModelProcess.start) -> None:
        self.limit, self._start = limit, start
        self._slots: dict[str, _Slot] = {}
        self._rests: dict[str, _Rest] = {}
        self._changed = asyncio.Condition()
        self._leaving: set[asyncio.Task[None]] = set()
        self.starts = 0
        self.crashes = 0

    def loaded(self) -> list[str]:
        """The names of the models that are loaded, the latest used first."""
        slots = sorted(self._slots.values(), key=lambda it: -it.used)
        return [it.model.name for it in slots if _is_ready(it)]

    def has(self, model: ServedModel) -> bool:
        """Whether a model is loaded and takes requests."""
        slot = self._slots.get(model.key)
        return slot is not None and _is_ready(slot) and not slot.leaving

    def fits(self, model: ServedModel) -> bool:
        """Whether a model can be loaded without unloading another."""
        return self._held() + estimated_bytes(model) <= self.limit

    @asynccontextmanager
    async def use(self, model: ServedModel) -> AsyncIterator[ModelProcess]:
        """The process of a model, which is not unloaded while the block runs.

        Raises ModelTooLarge, ModelResting, RequestFailed if the model cannot be loaded, and
        ModelCrashed.
        """
        slot = await self._take(model)
        try:
            yield await asyncio.shield(slot.task)
        finally:
            slot.users -= 1
            slot.used = time.monotonic()
            await self._notify()

    async def close(self) -> None:
        """Stop all processes."""
        for slot in self._slots.values():
            slot.task.cancel()
        for slot in list(self._slots.values()):
            with suppress(LorajobError, asyncio.CancelledError):
                await (await slot.task).stop()
        self._slots.clear()

    async def _take(self, model: ServedModel) -> _Slot:
        async with self._changed:
            while True:
                slot = self._slots.get(model.key)
                if slot is not None and _is_dead(slot) and not slot.leaving:
                    del self._slots[model.key]
                    self.crashes += 1
                    continue
                if slot is None:
                    self._check_rest(model)
                    if self._make_room(model):
                        slot = self._load(model)
                if slot is not None and not slot.leaving:
                    slot.users += 1
                    slot.used = time.monotonic()
                    return slot
                await self._changed.wait()

    def _check_rest(self, model: ServedModel) -> None:
        rest = self._rests.get(model.key)
        if rest is None or (left := rest.until - time.monotonic()) <= 0:
            return
        if isinstance(rest.error, ModelCrashed):
            raise ModelResting(f"{rest.error}; it is started again in {left:.0f} s", left)
        raise rest.error

    def _load(self, model: ServedModel) -> _Slot:
        task = asyncio.create_task(self._start_one(model))
        slot = _Slot(model, estimated_bytes(model), task)
        self._slots[model.key] = slot
        return slot

    async def _start_one(self, model: ServedModel) -> ModelProcess:
        began = time.monotonic()
        self.starts += 1
        try:
            process = await self._start(model)
        except BaseException as error:
            self._slots.pop(model.key, None)
            if isinstance(error, LorajobError):
                log.error("%s: not loaded: %s", model.name, error)
                self._rest(model, error)
            await self._notify()
            raise
        self._rests.pop(model.key, None)
        self._slots[model.key].bytes = max(process.ready.bytes, estimated_bytes(model))
        log.info(
            "%s: loaded in %.1f s on %s, %d windows at a time",
            *(model.name, time.monotonic() - began, process.ready.device),
            process.ready.batch_windows,
        )
        await self._notify()
        return process

    def _rest(self, model: ServedModel, error: LorajobError) -> None:
        before = self._rests.get(model.key)
        failures = 1 if before is None else before.failures + 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1))
        self._rests[model.key] = _Rest(failures, time.monotonic() + pause, error)

    def _held(self) -> float:
        return sum(it.bytes for it in self._slots.values() if not _is_dead(it))

    def _make_room(self, model: ServedModel) -> bool:
        """Whether there is room for a model now. If not, the longest unused ones begin to leave."""
        need = estimated_bytes(model)
        if need > self.limit:
            raise ModelTooLarge(
                f"{model.name} needs about {need / 1e9:.1f} GB; at most {self.limit / 1e9:.1f} GB "
                "are allowed (--memory-gb)"
            )
        staying = [it for it in self._slots.values() if not it.leaving and not _is_dead(it)]
        staying.sort(key=lambda it: (it.users > 0, it.used))
        held = sum(it.bytes for it in staying)
        for slot in staying:
            if held + need <= self.limit:
                break
            slot.leaving = True
            held -= slot.bytes
            task = asyncio.create_task(self._unload(slot))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        return self._held() + need <= self.limit

    async def _unload(self, slot: _Slot) -> None:
        """Stop a process when its last request has ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: slot.users == 0)
        with suppress(LorajobError):
            await (await slot.task).stop()
        log.info("%s: unloaded", slot.model.name)
        if self._slots.get(slot.model.key) is slot:
            del self._slots[slot.model.key]
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def estimated_bytes(model: ServedModel) -> float:
    """An estimate of the memory that a model needs."""
    path: Path = model.folder / "model.bin"
    weights = path.stat().st_size if path.is_file() else 0
    return 1.1 * weights + BESIDE_WEIGHTS


def _is_ready(slot: _Slot) -> bool:
    return slot.task.done() and not _failed(slot) and slot.task.result().alive


def _is_dead(slot: _Slot) -> bool:
    """Whether its start failed, or its process has crashed."""
    return slot.task.done() and (_failed(slot) or not slot.task.result().alive)


def _failed(slot: _Slot) -> bool:
    return slot.task.cancelled() or slot.task.exception() is not None
