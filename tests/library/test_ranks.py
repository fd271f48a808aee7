"""Two processes on the CPU, as a worker with two GPUs runs a training."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lorajob.errors import ModelError, StageError, StageStopped, UsageError
from lorajob.job.history import read_history
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.report import EXIT_FAILED, EXIT_STOPPED, Report
from lorajob.spec import build_spec
from lorajob.stage import run_stage
from lorajob.training import loop, rank_main, ranks
from lorajob.training.checkpoint import newest_checkpoint
from lorajob.training.ranks import Begin, wanted_processes
from tests.support.ports import free_port
from tests.support.procs import descendants, running
from tests.support.service import LONG_SECONDS, wait_for
from tests.support.tiny import make_job
from tests.support.training import SHORT, StopAt, history

EXACT = (*SHORT, "train.dropout=0")


def start(job: JobDir, processes: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "lorajob.stage", "train", str(job.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"LORAJOB_PROCESSES": str(processes), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    ("sets", "tolerance"),
    [
        ((), 1e-3),  # a cut window is padded to the longest of its process's share
        (("train.decoder_only=true", "train.cut_clips=1"), 1e-4),  # they share encoder outputs
    ],
)
def test_two_processes_train_as_one(
    tiny_whisper: Path, tmp_path: Path, sets: tuple[str, ...], tolerance: float
) -> None:
    alone, shared = (make_job(tmp_path / it, tiny_whisper, *EXACT, *sets) for it in ("1", "2"))
    run_stage("train", alone, 1, Report("train", StringIO()))
    stage = start(shared, 2)
    _, said = stage.communicate(timeout=240)
    assert stage.returncode == 0, said
    losses = [row["loss"] for row in history(alone)]
    assert len(losses) >= 3
    assert [row["loss"] for row in history(shared)] == pytest.approx(losses, rel=tolerance)


def launch(job: JobDir, port: int) -> None:
    """What torchrun does on one of two machines, with one process each."""
    config = LaunchConfig(
        min_nodes=2,
        max_nodes=2,
        nproc_per_node=1,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint=f"{ranks.LOOPBACK}:{port}",
        local_addr=ranks.LOOPBACK,
        max_restarts=0,
        monitor_interval=0.1,
    )
    with pytest.raises(ChildFailedError):  # a stopped stage has an exit code of its own
        elastic_launch(config, sys.executable)("-m", "lorajob.stage", "train", str(job.root))


def launched(rank: int) -> list[int]:
    """The processes that torch's launchers started with this number."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            if b"\0RANK=%d\0" % rank in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    return found


def test_torchs_launcher_trains_on_several_machines_which_stop_together(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = (*EXACT, "train.audio_context=full", "train.epochs=500", "train.save_steps=10000")
    alone = make_job(tmp_path / "alone", tiny_whisper, *sets)
    with pytest.raises(StageStopped):
        run_stage("train", alone, 1, StopAt(3))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    job = make_job(tmp_path / "job", tiny_whisper, *sets)
    port = free_port()
    with ThreadPoolExecutor(2) as threads:
        machines = [threads.submit(launch, job, port) for _ in range(2)]
        path = job.root / "attempts" / "train-1" / "history.jsonl"
        wait_for(lambda: path.is_file() and path.read_bytes().count(b"\n") >= 3)
        (other,) = launched(1)
        os.kill(other, signal.SIGTERM)  # the machine without the stage is told to stop
        for machine in machines:
            machine.result(timeout=240)
    newest = newest_checkpoint(job.checkpoints)
    assert newest is not None
    rows = history_of(newest.path)
    assert newest.step == len(rows)
    expected = newest_checkpoint(alone.checkpoints)
    assert expected is not None
    losses = [row["loss"] for row in history_of(expected.path)]
    assert [row["loss"] for row in rows[:3]] == pytest.approx(losses, rel=1e-4)


def test_an_error_of_one_machine_is_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ModelError("base_model: /models/small is missing")

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(rank_main, "wait_for_begin", lambda: Begin(clips=8, resume=None))
    monkeypatch.setattr(rank_main, "wait_for_end", lambda: None)
    monkeypatch.setattr(loop, "run_rank", fail)
    monkeypatch.setattr(os, "_exit", end)
    for name, value in {ranks.LAUNCHED: "test", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    job, report = JobDir(tmp_path), Report("train", StringIO())
    with pytest.raises(StageError, match="must be at the same path on all machines"):
        rank_main.run_launched(job, report)
    spec = build_spec({"language": "hi", "corpus": "c", "base_model": "/models/small"})
    write_json(job.spec_path, spec.as_written())
    with pytest.raises(SystemExit) as ended:
        rank_main.run_launched(job, report)
    assert ended.value.code == EXIT_FAILED
    assert [it.getMessage() for it in caplog.records] == ["base_model: /models/small is missing"]


def test_a_process_of_the_launcher_ends_after_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TCPStore(ranks.LOOPBACK, 0, is_master=True)
    place = {"MASTER_ADDR": ranks.LOOPBACK, "MASTER_PORT": str(store.port)}
    for name, value in (place | {ranks.LAUNCHED: "test", "WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    trained, report = threading.Event(), Report("train", StringIO())
    monkeypatch.setattr(rank_main, "_train", lambda *given: trained.set())
    job = JobDir(tmp_path)
    job.spec_path.write_text("{}")
    with ThreadPoolExecutor(1) as thread, ranks.shared_by(2, job, 8, None):
        other = thread.submit(rank_main.run_launched, job, report)
        assert trained.wait(LONG_SECONDS)
        # The first one is at its checkpoint or its result here.
        with pytest.raises(TimeoutError):
            other.result(1.0)
        ranks.tell_end()
        other.result(LONG_SECONDS)


def test_a_stop_reaches_both_after_the_same_step(tiny_whisper: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_whisper, *EXACT, "train.epochs=500", "train.save_steps=10000")
    stage = start(job, 2)
    assert stage.stdout is not None
    assert json.loads(stage.stdout.readline())["event"] == "progress"
    _, other = descendants(stage.pid)
    os.killpg(stage.pid, signal.SIGTERM)
    stage.communicate(timeout=240)
    assert stage.returncode == EXIT_STOPPED
    wait_for(lambda: not running(other))
    newest = newest_checkpoint(job.checkpoints)
    assert newest is not None
    assert newest.step == history_of(newest.path)[-1]["step"]


def history_of(checkpoint: Path) -> list[dict[str, float]]:
    return [json.loads(row) for row in read_history(checkpoint).splitlines()]


@pytest.mark.parametrize("victim", ["first", "other"])
def test_neither_process_outlives_the_other(
    tiny_whisper: Path, tmp_path: Path, victim: str
) -> None:
    job = make_job(tmp_path, tiny_whisper, *EXACT, "train.epochs=500")
    stage = start(job, 2)
    assert stage.stdout is not None
    assert stage.stdout.readline()
    _, other = descendants(stage.pid)
    os.kill(stage.pid if victim == "first" else other, signal.SIGKILL)
    stage.communicate(timeout=240)
    assert stage.returncode == -signal.SIGKILL  # and so it is tried again
    wait_for(lambda: not running(other))
    assert job.result("train") is None


LACKING = """\
import os

if os.environ.get("RANK") == "1":
    import torch
    import {module}

    def lack(self, *_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    {module}.{method} = lack
"""


@pytest.mark.parametrize(
    ("module", "method", "code", "line"),
    [
        (
            "lorajob.training.loss",
            "WhisperLoss.forward",
            EXIT_FAILED,
            "out of memory with train.micro_b",
        ),
        # half a step: only the checkpoint is whole, and another attempt goes on from it
        ("torch.optim", "AdamW.step", -signal.SIGKILL, "step 1 may be half applied"),
    ],
)
def test_memory_that_only_the_other_lacks_ends_both_alike(
    tiny_whisper: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    method: str,
    code: int,
    line: str,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LACKING.format(module=module, method=method))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = make_job(tmp_path / "job", tiny_whisper, *EXACT, "train.micro_batch=1")
    stage = start(job, 2)
    _, said = stage.communicate(timeout=240)
    assert stage.returncode == code, said
    assert line in said


def test_the_port_where_they_meet_is_held_before_anybody_is_told_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def start(command: list[str], env: dict[str, str], **options: Any) -> "subprocess.Popen[bytes]":
        told.append(int(env["MASTER_PORT"]))
        with socket.socket() as intruder, pytest.raises(OSError, match="in use"):
            intruder.bind((ranks.LOOPBACK, told[0]))
        return popen([sys.executable, "-c", ""], env=env, **options)

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    with ranks.shared_by(3, JobDir(tmp_path), 8, None):
        # as torch.distributed does in rank 0
        met = TCPStore(ranks.LOOPBACK, told[0], 3, True, multi_tenant=True, wait_for_workers=False)
        elsewhere = ("127.0.0.2", told[0])
        with socket.socket() as outside:
            assert outside.connect_ex(elsewhere) == errno.ECONNREFUSED  # on the loopback alone
        assert met.port == int(os.environ["MASTER_PORT"])
    assert told == [met.port] * 2
    assert "MASTER_PORT" not in os.environ


def test_how_many_processes_share_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (wanted_processes(0), wanted_processes(4)) == (1, 4)
    monkeypatch.setenv("LORAJOB_PROCESSES", "2")
    assert (wanted_processes(0), wanted_processes(4)) == (2, 2)
    for wrong in ("0", "5", "two"):
        monkeypatch.setenv("LORAJOB_PROCESSES", wrong)
        with pytest.raises(UsageError, match="allowed: 1 to 4, the GPUs here"):
            wanted_processes(4)
