"""What a run is told to take before it begins."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorajob.errors import StageStopped
from lorajob.job.report import Report
from lorajob.stage import run_stage
from lorajob.training.forecast import (
    GAPS_BYTES,
    GIB,
    Forecast,
    Loaded,
    forecast,
    windows_that_fit,
)
from lorajob.training.packed import Packer, PassShape
from lorajob.training.packing import ClipSizes, Window, pass_seconds
from tests.support.tiny import make_job
from tests.support.training import SHORT, adapter_bytes, history


def test_a_long_run_has_a_forecast_that_changes_nothing(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = make_job(tmp_path / "told", tiny_whisper, *SHORT, "train.epochs=8")
    command = [sys.executable, "-m", "lorajob.stage", "train", str(told.root)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = told.result("train")
    assert result is not None
    took = result.as_json()
    kept = json.loads((told.stage_dir("train") / "forecast.json").read_text())
    measured = kept.pop("measured")
    ahead = Forecast(**kept)
    assert ahead.steps == took["steps"] == len(history(told)) >= 40
    # The first step takes longer than the others. The time left is the forecast's until the second.
    first = next(it for it in map(json.loads, said.splitlines()) if it["event"] == "progress")
    assert first["step"] == 1
    assert first["eta_seconds"] == pytest.approx(ahead.seconds_a_step * (ahead.steps - 1))
    assert took["seconds"] / 20 < ahead.eta_seconds < took["seconds"] * 2
    assert ahead.peak_memory_bytes == pytest.approx(took["peak_memory_bytes"], rel=0.15)
    assert measured["peak_memory_bytes"] == pytest.approx(ahead.peak_memory_bytes, rel=0.15)
    assert 0 < measured["seconds"] < took["seconds"]
    monkeypatch.setattr("lorajob.training.loop.STEPS_TO_FORECAST", 10_000)
    untold = make_job(tmp_path / "untold", tiny_whisper, *SHORT, "train.epochs=8")
    run_stage("train", untold, 1, Report("train"))
    assert not (untold.stage_dir("train") / "forecast.json").exists()
    assert adapter_bytes(told) == adapter_bytes(untold)


def test_the_processes_that_read_start_before_the_forecast(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = []
    others = set(multiprocessing.active_children())

    def stop_here(run: Any, passes: Any, loaded: Loaded) -> Forecast:
        readers.append(len(set(multiprocessing.active_children()) - others))
        raise StageStopped("enough")

    monkeypatch.setattr("lorajob.training.loop.forecast", stop_here)
    job = make_job(tmp_path, tiny_whisper, *SHORT, "train.epochs=8", "train.loader_workers=2")
    with pytest.raises(StageStopped):
        run_stage("train", job, 1, Report("train"))
    assert readers == [2]


def test_a_disturbed_pass_does_not_decide_the_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([9.0, 5.0, 1.0, 3.0, 4.0])  # the median kind, four times, then the costliest
    monkeypatch.setattr("lorajob.training.forecast.dry_pass", lambda run, batch: next(took))
    device = SimpleNamespace(device=torch.device("meta"))
    run: Any = SimpleNamespace(accelerator=device, recorded=None)
    costs = [5.0, 10.0, 10.0, 20.0, 40.0]
    passes: Any = SimpleNamespace(
        left=lambda: [[[place]] for place in range(5)],
        seconds=lambda batch: costs[batch[0]],
        is_encoded=lambda batch: False,
        collate=lambda: list,
        dataset=costs,
    )
    ahead = forecast(run, passes, Loaded(0, 0))
    # half the median's, the median's twice, a third of the way up to the costliest, and that
    assert ahead.eta_seconds == pytest.approx(0.5 + 1.0 + 1.0 + 2.0 + 4.0)
    assert ahead.seconds_a_step == pytest.approx(8.5 / 5)


@pytest.mark.parametrize(
    ("windows", "median_runs", "times_the_costliest"),
    [
        (60, 2, False),  # 2 % are 1.2 median passes
        (240, 4, False),  # 2 % are 4.8 median passes, and the costliest is as long as 4
        (300, 2, True),  # 6 median passes and 4 of them for the costliest
        (1000, 4, True),
    ],
)
def test_the_dry_run_takes_two_percent_of_a_cpus_training(
    windows: int, median_runs: int, times_the_costliest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[list[float]] = []

    def take(run: object, batch: list[float]) -> float:
        timed.append(batch)
        return batch[0] / 10

    monkeypatch.setattr("lorajob.training.forecast.dry_pass", take)
    resident = 1 * GIB
    monkeypatch.setattr("lorajob.training.forecast.peak_memory", lambda: resident)
    monkeypatch.setattr("lorajob.training.forecast._resident_memory", lambda: resident)
    device = SimpleNamespace(device=torch.device("cpu"))
    run: Any = SimpleNamespace(accelerator=device, recorded=None, copied_bytes=0)
    costs = [10.0] * (windows - 1) + [40.0]
    passes: Any = SimpleNamespace(
        left=lambda: [[[place]] for place in range(windows)],
        seconds=lambda batch: costs[batch[0]],
        is_encoded=lambda batch: False,
        collate=lambda: list,
        dataset=_Costs(costs),
    )
    ahead = forecast(run, passes, Loaded(GIB // 2, GIB // 2))
    assert timed == [[10.0]] * median_runs + [[40.0]] * times_the_costliest
    assert ahead.eta_seconds == pytest.approx(sum(costs) / 10)
    # A costliest pass that was not run takes as many times the median's memory as it is longer.
    activations = GIB // 2 * (1 if times_the_costliest else 4)
    gaps = min(GAPS_BYTES, activations)
    assert ahead.peak_memory_bytes == GIB // 2 + activations + gaps


def test_the_memory_of_an_untimed_pass_is_in_proportion_to_its_own_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, unit = GIB, GIB // 8
    resident = kept

    def take(run: object, batch: list[int]) -> float:
        nonlocal resident
        # Passes with stored outputs take a third of the memory of the others.
        resident = max(resident, kept + unit * (1 if batch[0] < 60 else 3))
        return 1.0

    monkeypatch.setattr("lorajob.training.forecast.dry_pass", take)
    for name in ("peak_memory", "_resident_memory"):
        monkeypatch.setattr(f"lorajob.training.forecast.{name}", lambda: resident)
    device = SimpleNamespace(device=torch.device("cpu"))
    run: Any = SimpleNamespace(accelerator=device, recorded=None, copied_bytes=0)
    costs = [10.0] * 59 + [40.0] + [10.0] * 60
    passes: Any = SimpleNamespace(
        left=lambda: [[[place]] for place in range(120)],
        seconds=lambda batch: costs[batch[0]],
        is_encoded=lambda batch: batch[0] < 60,
        collate=lambda: list,
        dataset=_Places(range(120)),
    )
    ahead = forecast(run, passes, Loaded(kept, kept))
    # Four times the median of the kind with the long pass, not of the other.
    assert ahead.peak_memory_bytes == kept + 4 * unit + min(GAPS_BYTES, 4 * unit)


@pytest.mark.parametrize(
    ("passes_take", "expected"),
    [
        (GIB // 64, 2 * GIB),
        (GIB, 2 * GIB + GAPS_BYTES),
        (3 * GIB, 4 * GIB + GAPS_BYTES),
    ],
)
def test_the_gaps_are_in_proportion_to_what_passes_take(
    passes_take: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Loading took a GiB more for a moment than it left behind.
    loaded = Loaded(2 * GIB, GIB)
    resident = loaded.resident + passes_take
    monkeypatch.setattr("lorajob.training.forecast.dry_pass", lambda run, batch: 1.0)
    monkeypatch.setattr("lorajob.training.forecast._resident_memory", lambda: resident)
    peak = max(loaded.peak, resident)
    monkeypatch.setattr("lorajob.training.forecast.peak_memory", lambda: peak)
    device = SimpleNamespace(device=torch.device("cpu"))
    run: Any = SimpleNamespace(accelerator=device, recorded=None, copied_bytes=0)
    passes: Any = SimpleNamespace(
        left=lambda: [[[place]] for place in range(60)],
        seconds=lambda batch: 1.0,
        is_encoded=lambda batch: False,
        collate=lambda: list,
        dataset=_Places(range(60)),
    )
    assert forecast(run, passes, loaded).peak_memory_bytes == expected


class _Places(list[int]):
    """Stands for a dataset, of the numbers of its clips."""

    encoded = SimpleNamespace(bytes=0)


class _Costs(list[float]):
    """Stands for a dataset, whose clips have no stored encoder outputs."""

    encoded = SimpleNamespace(bytes=0)


@pytest.mark.parametrize(
    ("shape_of", "took", "expected"),
    [
        # The median kind, recorded first; then the costliest, recorded first. Four of the six
        # shapes are recorded later, each in 7 - 4 seconds.
        ([0, 1, 2, 3, 4, 5], [9.0, 1.0, 1.0, 1.0, 7.0, 4.0], 5 * 1.0 + 4.0 + 4 * 3.0),
        # The costliest has the shape of the median. So one of the other four is timed.
        ([0, 1, 2, 3, 4, 0], [9.0, 1.0, 1.0, 1.0, 4.0, 4.5, 7.0, 5.0], 5 * 1.0 + 4.0 + 3 * 2.0),
        # There is one shape only.
        ([0, 0, 0, 0, 0, 0], [9.0, 1.0, 1.0, 1.0, 4.0, 4.5], 5 * 1.0 + 4.0),
    ],
)
def test_the_time_to_record_a_pass_counts_once_for_each_shape(
    shape_of: list[int], took: list[float], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(took)
    monkeypatch.setattr("lorajob.training.forecast.dry_pass", lambda run, batch: next(times))
    monkeypatch.setattr(Packer, "__call__", lambda packer, items: items)
    device = SimpleNamespace(device=torch.device("meta"))
    run: Any = SimpleNamespace(accelerator=device, recorded=object())
    costs = [10.0, 10.0, 10.0, 10.0, 10.0, 40.0]
    shapes = [PassShape(64 * number, 64, 4) for number in range(1, 7)]
    passes: Any = SimpleNamespace(
        left=lambda: [[[place]] for place in range(6)],
        seconds=lambda batch: costs[batch[0]],
        is_encoded=lambda batch: False,
        collate=lambda: Packer(shapes, 1, 0),
        shape=lambda batch, given: given[shape_of[batch[0]]],
        dataset=costs,
    )
    ahead = forecast(run, passes, Loaded(0, 0))
    assert ahead.eta_seconds == pytest.approx(expected)
    assert not list(times)


@pytest.mark.parametrize(
    ("free_gib", "window_gib", "windows"),
    [
        (14.0, 1.0, 8),
        (14.0, 13.0, 1),
        (14.0, 20.0, 1),
        (70.0, 0.5, 32),
        (70.0, 2.5, 16),
        (6.0, 1.3, 4),
    ],
)
def test_the_micro_batch_is_what_the_cards_memory_takes(
    free_gib: float, window_gib: float, windows: int
) -> None:
    assert windows_that_fit(int(free_gib * GIB), int(window_gib * GIB)) == windows


def test_a_pass_costs_what_it_is_padded_to() -> None:
    sizes = ClipSizes([4.0, 2.0, 6.0], [40, 20, 100], ["", "", ""])
    windows = [Window((0,), False, True), Window((1,), False, True), Window((0, 1, 2), True)]
    assert pass_seconds([0, 1], windows, sizes) == pytest.approx(2 * (4.5 + 40 * 0.045))
    assert pass_seconds([2], windows, sizes) == pytest.approx(30 + 160 * 0.045)
