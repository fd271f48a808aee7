"""Checkpoints are written beside the training, and share what does not change."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from lorajob.job.history import Rows, read_history, write_history
from lorajob.job.report import Report
from lorajob.stage import run_stage
from lorajob.training import checkpoint
from lorajob.training import history as history_module
from lorajob.training import writer as writer_module
from lorajob.training.checkpoint import Snapshot, save_checkpoint
from lorajob.training.history import History, Taken
from lorajob.training.trainer import Run
from lorajob.training.writer import CheckpointWriter
from tests.support.tiny import make_job
from tests.support.training import SHORT, adapter_bytes

LIMIT = 240  # seconds


def test_the_training_goes_on_while_a_checkpoint_is_written_which_stays_as_it_began(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = make_job(tmp_path / "undisturbed", tiny_whisper, *SHORT)
    run_stage("train", undisturbed, 1, Report("train"))
    went_on = threading.Event()
    waited = []
    take_step = Run.take_step

    def next_step(self: Run, *given: Any) -> torch.Tensor:
        if self.step == 4:
            raise RuntimeError("the machine broke")
        loss = take_step(self, *given)
        if self.step == 4:
            went_on.set()
        return loss

    def slow(*given: Any) -> None:
        waited.append(went_on.wait(LIMIT))
        save_checkpoint(*given)

    monkeypatch.setattr(Run, "take_step", next_step)
    monkeypatch.setattr(writer_module, "save_checkpoint", slow)
    job = make_job(tmp_path / "job", tiny_whisper, *SHORT)
    with pytest.raises(RuntimeError, match="the machine broke"):
        run_stage("train", job, 1, Report("train"))
    assert waited == [True]
    monkeypatch.undo()
    assert run_stage("train", job, 2, Report("train")).as_json()["resumed_from"] == 3
    assert adapter_bytes(job) == adapter_bytes(undisturbed)


def a_run(device: str, save_seconds: float | None) -> SimpleNamespace:
    """What a writer reads of a training at step 3."""
    config = SimpleNamespace(save_seconds=save_seconds, save_steps=5, keep_checkpoints=2)
    machine = SimpleNamespace(device=torch.device(device))
    return SimpleNamespace(step=3, model=None, optimizer=None, config=config, accelerator=machine)


@pytest.mark.parametrize(
    ("device", "save_seconds", "step_seconds", "saved"),
    [
        ("cuda", None, 25.0, [3, 6, 9, 12]),  # slow steps are not saved later than a minute
        ("cuda", None, 0.1, []),
        ("cuda", 100.0, 25.0, [4, 8, 12]),
        ("cuda", 0.0, 25.0, [5, 10]),
        ("cpu", None, 25.0, [5, 10]),
        ("cpu", 60.0, 25.0, [3, 6, 9, 12]),
    ],
)
def test_a_checkpoint_is_due_by_the_clock_or_by_steps(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    save_seconds: float | None,
    step_seconds: float,
    saved: list[int],
) -> None:
    now = [0.0]
    monkeypatch.setattr(writer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    writer = CheckpointWriter(cast("Run", a_run(device, save_seconds)))
    found = []
    for step in range(1, 13):
        now[0] += step_seconds
        if writer.due(step):
            found.append(step)
            writer.begun_at = now[0]
    writer.close()
    assert found == saved


def test_an_error_of_the_thread_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the disk is broken")

    monkeypatch.setattr(writer_module, "take_snapshot", lambda *_: None)
    monkeypatch.setattr(writer_module, "save_checkpoint", fail)
    run = a_run("cuda", None)
    writer = CheckpointWriter(cast("Run", run))
    run.step = 6
    unused = cast("Any", None)
    writer.begin(tmp_path, cast("Run", run), unused, unused, {})
    with pytest.raises(OSError, match="the disk is broken"):
        writer.wait()
    assert writer.saved == 3
    # If another error ends the training, the log has that of the thread.
    run.step = 9
    writer.begin(tmp_path, cast("Run", run), unused, unused, {})
    writer.close()
    (line,) = [it.getMessage() for it in caplog.records if it.levelname == "WARNING"]
    assert line == "the checkpoint of step 9 could not be written: the disk is broken"


def test_closed_parts_of_the_history_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "ROWS", 3)
    path = tmp_path / "out" / "history.jsonl"
    path.parent.mkdir()
    path.touch()
    history = History(path)
    history.begin(0.0)
    folders = []
    for step in range(1, 9):
        history.add(step, 2.0 / step, 1e-3, Taken(float(step), 10, 2, 0.0))
        folder = tmp_path / f"step-{step}"
        folder.mkdir()
        write_history(folder, history.rows(), folders[-1] if folders else None)
        assert read_history(folder) == path.read_bytes()
        folders.append(folder)
        # A validation after the checkpoint changes the newest row.
        history.add_to_newest({"validation_wer": 50.0 + step}, 0.0)
    history.close()
    rows = [json.loads(row) for row in read_history(folders[-1]).splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row.get("validation_wer") for row in rows] == [*range(51, 58), None]
    assert sorted(it.name for it in folders[-1].iterdir()) == [
        "history-000001.jsonl",
        "history-000002.jsonl",
        "history.jsonl",
    ]
    assert len({(it / "history-000001.jsonl").stat().st_ino for it in folders[3:]}) == 1
    # An attempt that continues from there has the same parts. Without links they are copied.
    again = tmp_path / "again" / "history.jsonl"
    again.parent.mkdir()
    again.write_bytes(read_history(folders[-1]))
    continued = History(again)
    rows_again: Rows = continued.rows()
    continued.close()
    copied = tmp_path / "copied"
    copied.mkdir()
    write_history(copied, rows_again, None)
    for file in folders[-1].iterdir():
        assert (copied / file.name).read_bytes() == file.read_bytes()
    # Another version of lorajob may close its parts after other rows.
    (folders[3] / "history-000001.jsonl").unlink()
    (folders[3] / "history-000001.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}\n')
    other = tmp_path / "other"
    other.mkdir()
    write_history(other, rows_again, folders[3])
    assert read_history(other) == again.read_bytes()


def test_a_slow_first_step_changes_no_rate_of_the_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.touch()
    history = History(path)
    history.begin(0.0)
    # It starts the readers of clips.
    history.add(1, 2.0, 1e-3, Taken(30.0, 10, 2, 29.0))
    history.shorten_first(0.5)
    for step in range(2, 30):
        fields, seconds = history.add(
            step, 2.0, 1e-3, Taken(30.0 + 0.5 * (step - 1), 10, 2, waited=0.0)
        )
        assert seconds == pytest.approx(0.5)
        assert fields["clips_per_second"] == pytest.approx(4)
        assert fields["waited_for_data"] <= 0.5
    history.close()
    assert fields["waited_for_data"] == 0


class Killed(BaseException):
    """As if the process ended here."""


@pytest.mark.parametrize(
    ("moment", "newest"),
    [
        ("save_adapter", 3),
        ("save_file", 3),
        ("write_history", 3),
        ("write_json", 3),
        ("hash_files", 3),
        ("sync_tree", 3),
        ("_take_mark", 3),
        ("sync_path", 6),
    ],
)
def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, newest: int
) -> None:
    def save_adapter(model: Any, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        save_file(weights, folder / "adapter_model.safetensors")

    def kill(*_: Any) -> None:
        raise Killed

    (tmp_path / "history.jsonl").write_bytes(b"{}\n")
    snapshot = Snapshot(
        model=cast("Any", None),
        adapter={"a": torch.ones(3)},
        optimizer={"0.step": torch.ones(())},
        validation={},
        state={"step": 3},
        history=Rows(tmp_path / "history.jsonl", (), b"{}\n"),
    )
    monkeypatch.setattr(checkpoint, "save_adapter", save_adapter)
    folder = tmp_path / "checkpoints" / "1"
    folder.mkdir(parents=True)
    save_checkpoint(folder / "step-3", snapshot)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(checkpoint, moment, kill)
        save_checkpoint(folder / "step-6", snapshot, folder / "step-3")
    found = checkpoint.take_over(folder.parent, 2)
    assert found is not None and found.step == newest
    assert all(not path.name.startswith(".") for path in (folder.parent / "2").iterdir())
