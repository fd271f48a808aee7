"""What keeps a GPU busy in a step, as far as a CPU can show it."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lorajob import train
from lorajob.job.report import Report
from lorajob.spec import JobSpec, TrainConfig
from lorajob.speech.clipstore import ClipStore
from lorajob.stage import run_stage
from lorajob.training import attention, loop, trainer
from lorajob.training.dataset import PaddedBatch, WindowDataset, collate
from lorajob.training.graphs import NotRecorded, RecordedPasses
from lorajob.training.packed import PackedBatch, Packer
from lorajob.training.packing import Window
from lorajob.training.trainer import Run, start_run
from lorajob.whisper.tokens import Labels
from tests.support.tiny import make_job
from tests.support.training import SHORT, history

CONFIG = TrainConfig(precision="float32", batch_clips=2, rank=4)
WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class WithoutWaiting(TorchDispatchMode):
    """Refuses operations that wait for the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        assert func not in WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def batches_of(run: Run, folder: Path, job: Path) -> tuple[PackedBatch, PaddedBatch]:
    """The same two windows, packed and padded."""
    store = ClipStore(make_job(job, folder, clips=4).stage_dir("preprocess") / "train")
    windows = (Window((0,), False, cut=True), Window((1,), False, cut=True))
    dataset = WindowDataset(store, Labels(folder, "hi"), windows)
    items = [dataset[0], dataset[1]]
    config = run.loss.whisper.config
    pack = Packer((), config.decoder_start_token_id, config.pad_token_id)
    return pack(items), collate(items)


def mixed_at_once(queries: Tensor, keys: Tensor, values: Tensor, *ends: object) -> Tensor:
    """As a GPU's kernel, it does not read where windows end. It is no attention."""
    return queries + keys.mean() + values.mean()


def test_a_step_does_not_wait_for_the_device(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU attends to one window after the other.
    monkeypatch.setattr(attention, "_attend_in_turn", mixed_at_once)
    run = start_run(tiny_whisper, CONFIG, 0, 10, None)
    packed, _ = batches_of(run, tiny_whisper, tmp_path)
    before = run.adapter.weights.detach().clone()
    with WithoutWaiting():
        run.take_step([packed, packed], 100)
        with pytest.raises(AssertionError, match="waits for the device"):
            torch.ones(2).sum().item()
    assert not torch.equal(run.adapter.weights, before)
    assert run.optimizer.param_groups[0]["fused"] is True


def test_losses_stay_on_a_gpu_for_ten_steps(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loop.STEPS_UNREAD["cuda"] == 10
    monkeypatch.setitem(loop.STEPS_UNREAD, "cpu", 10)
    reported: list[int] = []

    class Noted(Report):
        def progress(self, step: int, total: int, **fields: Any) -> None:
            if "loss" in fields:
                reported.append(step)
            super().progress(step, total, **fields)

    sets = (*SHORT, "train.save_steps=1000", "train.epochs=6", "train.validation_clips=0")
    job = make_job(tmp_path, tiny_whisper, *sets, clips=4)
    run_stage("train", job, 1, Noted("train"))
    steps = [row["step"] for row in history(job)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 11
    assert reported == [*range(1, len(steps), 10), len(steps)]


def test_a_training_takes_the_clips_that_suit_the_card(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LaidOut(Exception):
        pass

    def lay_out(spec: object, job: object, clips: int) -> None:
        raise LaidOut(clips)

    job = make_job(tmp_path, tiny_whisper, clips=4)
    spec = JobSpec.load(job.spec_path)
    card = SimpleNamespace(multi_processor_count=58)
    monkeypatch.setattr(train, "lay_out", lay_out)
    monkeypatch.setattr(train, "wanted_processes", lambda gpus: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    with pytest.raises(LaidOut, match=r"^64$"):
        train.run(spec, job, tmp_path, 1, Report("train"))


class Recorder:
    """Takes the place of RecordedPasses, which needs a GPU."""

    def __init__(self, *given: object) -> None:
        self.given, self.forgotten = given, 0

    def __call__(self, batch: PackedBatch, tokens: int) -> Tensor:
        raise NotRecorded("operation not permitted when stream is capturing")

    def forget(self) -> None:
        self.forgotten += 1


def test_passes_are_recorded_unless_the_switch_is_off(
    tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "RecordedPasses", Recorder)
    assert start_run(tiny_whisper, CONFIG, 0, 10, None).recorded is None  # a CPU does not pack
    monkeypatch.setattr(trainer, "packs", lambda device, dtype: True)
    assert isinstance(start_run(tiny_whisper, CONFIG, 0, 10, None).recorded, Recorder)
    off = CONFIG.model_copy(update={"cuda_graphs": False})
    assert start_run(tiny_whisper, off, 0, 10, None).recorded is None


def test_a_pass_that_cannot_be_recorded_is_run(
    tiny_whisper: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = start_run(tiny_whisper, CONFIG, 0, 10, None)
    packed, _ = batches_of(run, tiny_whisper, tmp_path)
    torch.manual_seed(1)
    expected, gradient = run.take_pass(packed, 100), run.adapter.gradient.clone()
    run.adapter.clear_gradient()
    run.recorded = cast("RecordedPasses", Recorder())
    torch.manual_seed(1)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(run.take_pass(packed, 100), expected)
    assert run.recorded is None and torch.equal(run.adapter.gradient, gradient)
    assert "passes are not recorded, so training is slower: operation not" in caplog.text


def test_after_out_of_memory_shapes_are_recorded_again(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(tiny_whisper, CONFIG, 0, 10, None)
    recorder = Recorder()
    run.recorded, run.micro_batch = cast("RecordedPasses", recorder), 4
    run.use_less_memory(4, torch.OutOfMemoryError("CUDA out of memory"))
    assert recorder.forgotten == 1 and run.micro_batch == 2
    # Of the real one, only the recording needs a GPU.
    packed, _ = batches_of(run, tiny_whisper, tmp_path)
    passes = RecordedPasses(run.loss, run.accelerator.backward, run.adapter)
    shapes: list[object] = []

    def record(batch: PackedBatch) -> SimpleNamespace:
        shapes.append(batch.shape)
        graph = SimpleNamespace(replay=lambda: None)
        return SimpleNamespace(graph=graph, inputs=batch, share=torch.ones(()), loss=torch.ones(()))

    def failing(error: Exception) -> Callable[[PackedBatch], None]:
        def fail(batch: PackedBatch) -> None:
            raise error

        return fail

    monkeypatch.setattr(passes, "_record", record)
    for _ in range(2):
        passes(packed, 100)
    assert shapes == [packed.shape]
    passes.forget()
    passes(packed, 100)
    assert shapes == 2 * [packed.shape]
    passes.forget()
    monkeypatch.setattr(passes, "_record", failing(RuntimeError("capturing")))
    with pytest.raises(NotRecorded, match="capturing"):
        passes(packed, 100)
    monkeypatch.setattr(passes, "_record", failing(torch.OutOfMemoryError("CUDA")))
    with pytest.raises(torch.OutOfMemoryError):
        passes(packed, 100)
