"""What training does when memory or disk run out, or another attempt takes over."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from lorajob.checkpoint import take_over
from lorajob.errors import AttemptLost, DiskError, MemoryLack, ModelError, StageStopped
from lorajob.features import WINDOW_SAMPLES
from lorajob.loss import WhisperLoss
from lorajob.report import Report
from lorajob.stage import EXIT_BROKEN, run_stage
from tests.procs import limit_files
from tests.test_train import SHORT, StopAt, history
from tests.tiny import make_job


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

    def small_card(self: Any, audio: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if audio.numel() > fits * WINDOW_SAMPLES:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, audio, labels)

    monkeypatch.setattr(WhisperLoss, "forward", small_card)
    job = make_job(tmp_path / "small", tiny_whisper, *sets, "train.micro_batch=4")
    with pytest.raises(StageStopped):
        run_stage("train", job, 1, StopAt(2))
    assert "going on with micro-batches of 2 windows" in caplog.text
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
    with pytest.raises(AttemptLost, match="a later attempt has taken over"):
        run_stage("train", job, 1, TakenOver("train"))
    assert [path.name for path in job.checkpoints.iterdir()] == ["2"]
    assert [path.name for path in (job.checkpoints / "2").iterdir()] == ["step-3"]
    with pytest.raises(AttemptLost, match="a later attempt has begun"):
        run_stage("train", job, 1, Report("train"))
    assert run_stage("train", job, 3, Report("train"))["resumed_from"] == 3


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
    stage = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert stage.returncode == EXIT_BROKEN
    assert "Traceback" in stage.stderr and "stage train broke" in stage.stderr


def test_memory_lacking_outside_a_step_is_no_fault_of_the_job(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(WhisperForConditionalGeneration, "from_pretrained", full)
    job = make_job(tmp_path, tiny_whisper, *SHORT)
    with pytest.raises(MemoryLack, match="stage train ran out of memory: CUDA out of memory"):
        run_stage("train", job, 1, Report("train"))
