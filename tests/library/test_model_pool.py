"""Which models are loaded: on demand, within the memory limit, and again after a crash."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorajob.errors import LorajobError, ModelError
from lorajob.serving.models import Ready, ServedModel
from lorajob.serving.pool import BESIDE_WEIGHTS, ModelPool, ModelResting, ModelTooLarge
from lorajob.serving.process import ModelCrashed

EACH = BESIDE_WEIGHTS  # of a model without weights
TWO = 2.5 * EACH  # room for two of them


class Process:
    """A process that does nothing."""

    def __init__(self, model: ServedModel) -> None:
        self.model, self.alive = model, True
        self.ready = Ready(device="cpu", batch_windows=1, bytes=0)

    async def stop(self) -> None:
        self.alive = False


class Starter:
    """Starts processes, and fails where it is told to."""

    def __init__(self) -> None:
        self.started: list[Process] = []
        self.fails: LorajobError | None = None

    async def __call__(self, model: ServedModel) -> Any:
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        self.started.append(Process(model))
        return self.started[-1]


def model(name: str) -> ServedModel:
    return ServedModel(name=name, folder=Path(f"/nowhere/{name}"), language="hi")


def pool(limit: float = TWO) -> tuple[ModelPool, Starter]:
    starter = Starter()
    return ModelPool(limit, starter), starter


async def touch(models: ModelPool, *names: str) -> None:
    for name in names:
        async with models.use(model(name)):
            pass


def test_the_longest_unused_model_makes_room() -> None:
    async def run() -> None:
        models, starter = pool()
        await touch(models, "a", "b", "a", "c")
        assert models.loaded() == ["c", "a"]
        assert [it.model.name for it in starter.started if not it.alive] == ["b"]
        await touch(models, "a")
        assert len(starter.started) == 3
        await models.close()
        assert not any(it.alive for it in starter.started)

    asyncio.run(run())


def test_a_model_in_use_is_unloaded_when_its_requests_have_ended() -> None:
    async def run() -> None:
        models, starter = pool(1.5 * EACH)
        async with models.use(model("a")) as used:
            other = asyncio.create_task(touch(models, "b"))
            again = asyncio.create_task(touch(models, "a"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert used.alive and not other.done() and not again.done()
        await other
        assert not used.alive
        # What waited for the old process gets a new one.
        await again
        assert [it.model.name for it in starter.started] == ["a", "b", "a"]

    asyncio.run(run())


def test_requests_at_the_same_time_share_a_start() -> None:
    async def run() -> None:
        models, starter = pool()
        await asyncio.gather(*(touch(models, "a") for _ in range(5)))
        assert len(starter.started) == 1

    asyncio.run(run())


def test_a_model_that_never_fits_is_refused() -> None:
    async def run() -> None:
        models, _ = pool(0.5 * EACH)
        with pytest.raises(ModelTooLarge, match=r"a needs about 0\.4 GB; at most 0\.2 GB"):
            await touch(models, "a")

    asyncio.run(run())


def test_a_dead_process_is_replaced_and_a_failed_start_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A rest of a second is not over before the next request.
    monkeypatch.setattr("lorajob.serving.pool.time", SimpleNamespace(monotonic=lambda: 0.0))

    async def run() -> None:
        models, starter = pool()
        await touch(models, "a")
        starter.started[0].alive = False
        await touch(models, "a")
        assert len(starter.started) == 2 and models.crashes == 1
        starter.fails = ModelCrashed("its process ended")
        with pytest.raises(ModelCrashed):
            await touch(models, "b")
        with pytest.raises(ModelResting, match="is started again in") as resting:
            await touch(models, "b")
        assert 0 < resting.value.seconds <= 1
        starter.fails = ModelError("b: model.bin was altered")
        with pytest.raises(ModelError):
            await touch(models, "c")
        with pytest.raises(ModelError, match="altered"):
            await touch(models, "c")

    asyncio.run(run())
