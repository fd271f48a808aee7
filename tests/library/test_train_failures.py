"""What training does when memory or disk run out, or another attempt takes over."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from lorajob.errors import AttemptSuperseded, DiskError, ModelError, OutOfMemory, StageStopped
from lorajob.job.jobdir import MANIFEST, hash_files, write_json
from lorajob.job.report import EXIT_BROKEN, Report
from lorajob.spec import TrainConfig
from lorajob.speech.clipstore import ClipStore
from lorajob.stage import run_stage
from lorajob.training import checkpoint
from lorajob.training.checkpoint import flatten_optimizer, take_over
from lorajob.training.dataset import PaddedBatch, WindowDataset, collate
from lorajob.training.loss import WhisperLoss
from lorajob.training.packing import Window
from lorajob.training.trainer import start_run
from lorajob.whisper.tokens import Labels
from lorajob.whisper.window import WINDOW_SAMPLES
from tests.support.procs import limit_files
from tests.support.tiny import make_job
from tests.support.training import SHORT, StopAt, adapter_bytes, history


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_steps(
    tiny_whisper: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = ("train.packing=false", "train.audio_context=full")
    sets = (*SHORT, *whole, "train.dropout=0", "train.batch_clips=4")
    plain = make_job(tmp_path / "plain", tiny_whisper, *sets, "train.micro_batch=4")
    run_stage("train", plain, 1, Report("train"))
    fits, forward = 1, WhisperLoss.forward

    def small_card(self: Any, batch: PaddedBatch) -> torch.Tensor:
        if batch.audio is not None and batch.audio.numel() > fits * WINDOW_SAMPLES:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch)

    monkeypatch.setattr(WhisperLoss, "forward", small_card)
    job = make_job(tmp_path / "small", tiny_whisper, *sets, "train.micro_batch=4")
    with pytest.raises(StageStopped):
        run_stage("train", job, 1, StopAt(2))
    assert "continuing with smaller passes, in micro-batches of 2 windows" in caplog.text
    assert "no longer bit for bit" in caplog.text
    caplog.clear()
    run_stage("train", job, 2, Report("train"))
    assert "out of memory" not in caplog.text  # the checkpoint remembers what fits
    losses = [[row["loss"] for row in history(it)] for it in (plain, job)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    fits = 0
    job = make_job(tmp_path / "none", tiny_whisper, *sets)
    with pytest.raises(ModelError, match=r"out of memory with train\.micro_batch=1"):
        run_stage("train", job, 1, Report("train"))


def test_a_step_that_lacked_memory_leaves_no_gradients_behind(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, tiny_whisper)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    windows = [Window((clip,), False) for clip in range(2)]
    dataset = WindowDataset(store, Labels(tiny_whisper, "hi"), windows)
    batches = [collate([dataset[index]]) for index in range(2)]
    config = TrainConfig(rank=4, precision="float32", dropout=0.1)
    forward = WhisperLoss.forward
    adapters = []
    for full_at in (0, 2):
        passes = 0

        def small_card(self: Any, *batch: torch.Tensor, full_at: int = full_at) -> torch.Tensor:
            nonlocal passes
            passes += 1
            if passes == full_at:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, *batch)

        monkeypatch.setattr(WhisperLoss, "forward", small_card)
        run = start_run(tiny_whisper, config, 1, 10, None)
        if full_at:
            with pytest.raises(torch.OutOfMemoryError):
                run.take_step(batches, 20)
            assert run.step == 0
        run.take_step(batches, 20)
        adapters.append(run.adapter.weights.detach().clone())
    assert all(map(torch.equal, *adapters))


def test_the_optimizers_first_step_allocates_no_state(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def where(optimizer: torch.optim.Optimizer) -> dict[str, int]:
        tensors, _ = flatten_optimizer(optimizer)
        return {name: tensor.data_ptr() for name, tensor in tensors.items()}

    def watched(self: torch.optim.AdamW, closure: Any = None) -> None:
        before = where(self)
        step(self, closure)
        assert before and where(self) == before

    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run_stage("train", make_job(tmp_path, tiny_whisper, *SHORT), 1, Report("train"))


@pytest.mark.parametrize("applied", [False, True])
def test_a_step_that_lacked_memory_while_applied_is_neither_repeated_nor_skipped(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    undisturbed = make_job(tmp_path / "undisturbed", tiny_whisper, *SHORT)
    run_stage("train", undisturbed, 1, Report("train"))
    step, taken = torch.optim.AdamW.step, 0

    def full_at_5(self: torch.optim.AdamW, closure: Any = None) -> None:
        nonlocal taken
        taken += 1
        if taken != 5 or applied:
            step(self, closure)
        if taken == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", full_at_5)
    job = make_job(tmp_path / "full", tiny_whisper, *SHORT)
    with pytest.raises(OutOfMemory, match=r"step 5 may be half applied; .* the last checkpoint"):
        run_stage("train", job, 1, Report("train"))
    assert run_stage("train", job, 2, Report("train")).as_json()["resumed_from"] == 3
    assert adapter_bytes(job) == adapter_bytes(undisturbed)


def test_a_run_goes_on_with_as_many_threads_as_it_began_with(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SHORT, "train.threads=null")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with pytest.raises(StageStopped):
            run_stage("train", job, 1, StopAt(2))
        torch.set_num_threads(2)
        run_stage("train", job, 2, Report("train"))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_whoever_was_taken_over_can_write_no_checkpoint(tiny_whisper: Path, tmp_path: Path) -> None:
    class TakenOver(Report):
        def progress(self, step: int, total: int, **fields: Any) -> None:
            if step == 4:
                take_over(job.checkpoints, 2)

    job = make_job(tmp_path, tiny_whisper, *SHORT)
    with pytest.raises(AttemptSuperseded, match="a later attempt has taken over"):
        run_stage("train", job, 1, TakenOver("train"))
    assert [path.name for path in job.checkpoints.iterdir()] == ["2"]
    assert [path.name for path in (job.checkpoints / "2").iterdir()] == ["step-3"]
    with pytest.raises(AttemptSuperseded, match="a later attempt has begun"):
        run_stage("train", job, 1, Report("train"))
    assert run_stage("train", job, 3, Report("train")).as_json()["resumed_from"] == 3


@pytest.mark.parametrize("moment", ["save_adapter", "flatten_optimizer", "sync_tree"])
def test_whoever_is_taken_over_while_it_writes_a_checkpoint_leaves_none(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SHORT)
    usual = getattr(checkpoint, moment)

    def interrupted(*args: Any) -> Any:
        monkeypatch.setattr(checkpoint, moment, usual)
        take_over(job.checkpoints, 2)
        return usual(*args)

    monkeypatch.setattr(checkpoint, moment, interrupted)
    with pytest.raises(AttemptSuperseded, match="a later attempt has taken over"):
        run_stage("train", job, 1, Report("train"))
    assert [path.name for path in job.checkpoints.iterdir()] == ["2"]
    assert list((job.checkpoints / "2").iterdir()) == []


@pytest.mark.parametrize("other", [("train.clip_timestamps=1",), ("train.epochs=2",), ()])
def test_a_checkpoint_of_another_plan_of_windows_is_not_gone_on_from(
    tiny_whisper: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, other: tuple[str, ...]
) -> None:
    plain = (*SHORT, "train.cut_clips=0.2", "train.single_clips=0.2", "train.epochs=3")
    job = make_job(tmp_path / "job", tiny_whisper, *plain)
    with pytest.raises(StageStopped):
        run_stage("train", job, 1, StopAt(7))
    changed = make_job(
        tmp_path / "changed", tiny_whisper, *plain, *other, clips=12 if other else 11
    )
    run_stage("train", changed, 1, Report("train"))
    if other:
        shutil.copyfile(changed.spec_path, job.spec_path)
    else:  # its preprocessing was done anew, and left another clip out
        shutil.rmtree(job.stage_dir("preprocess"))
        shutil.copytree(changed.stage_dir("preprocess"), job.stage_dir("preprocess"))
    caplog.clear()
    with pytest.raises(StageStopped):
        run_stage("train", job, 2, StopAt(4))
    for step in (6, 7):  # as many as are kept
        assert f"step-{step} is of another plan of windows and set aside as" in caplog.text
    assert {path.name for path in (job.checkpoints / "2").iterdir()} == {"step-3", "step-4"}
    caplog.clear()
    assert run_stage("train", job, 3, Report("train")).as_json()["resumed_from"] == 4
    assert "set aside" not in caplog.text
    assert adapter_bytes(job) == adapter_bytes(changed)
    assert [row["step"] for row in history(job)] == [row["step"] for row in history(changed)]


def test_a_checkpoint_that_names_no_plan_is_gone_on_from_and_named(
    tiny_whisper: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SHORT)
    with pytest.raises(StageStopped):
        run_stage("train", job, 1, StopAt(4))
    for folder in (job.checkpoints / "1").iterdir():  # as they were written before
        state = json.loads((folder / "state.json").read_text())
        del state["plan"]
        write_json(folder / "state.json", state)
        write_json(folder / MANIFEST, {"files": hash_files(folder)})
    assert run_stage("train", job, 2, Report("train")).as_json()["resumed_from"] == 4
    assert "step-4 does not tell its plan of windows: perhaps not exact" in caplog.text


# TensorBoard writes in a thread of its own, which ends with the full disk.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_one_error_and_leaves_no_half_of_anything(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    class FullAt4(Report):
        def progress(self, step: int, total: int, **fields: Any) -> None:
            if step == 4:
                limit_files(os.getpid(), 20_000)

    job = make_job(tmp_path / "hi-1a2b3c4d", tiny_whisper, *SHORT)
    try:
        with pytest.raises(DiskError, match=r"no room left .* then `lorajob retry hi-1a2b3c4d`"):
            run_stage("train", job, 1, FullAt4("train"))
    finally:
        limit_files(os.getpid(), -1)
    assert [path.name for path in (job.checkpoints / "1").iterdir()] == ["step-3"]
    assert not list((job.root / "attempts").iterdir())


def test_a_bug_beside_loader_processes_ends_the_stage_with_its_traceback(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SHORT, "train.loader_workers=2")
    for shard in (job.stage_dir("preprocess") / "train").glob("*.arrow"):
        shard.write_bytes(shard.read_bytes().replace(b"fLaC", b"oops"))
    command = [sys.executable, "-m", "lorajob.stage", "train", str(job.root)]
    stage = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert stage.returncode == EXIT_BROKEN
    assert "Traceback" in stage.stderr and "stage train broke" in stage.stderr


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_lacking_outside_a_step_is_no_fault_of_the_job(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(WhisperForConditionalGeneration, "from_pretrained", full)
    job = make_job(tmp_path, tiny_whisper, *SHORT)
    with pytest.raises(OutOfMemory, match="stage train ran out of memory: CUDA "):
        run_stage("train", job, 1, Report("train"))
