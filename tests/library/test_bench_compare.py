"""The fair baseline and the table of bench/compare.py, and the losses of bench/online.py."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.even_steps import EvenSteps
from bench.online import losses, table

from lorajob.job.jobdir import JobDir


def test_each_epoch_of_the_fair_baseline_has_all_clips_once_in_the_steps_of_lorajob() -> None:
    batches = EvenSteps(160, 147, np.random.default_rng(0))
    first, second = list(batches), list(batches)
    assert len(batches) == len(first) == len(second) == 147
    for epoch in (first, second):
        assert sorted(clip for step in epoch for clip in step) == list(range(160))
        assert {len(step) for step in epoch} == {1, 2}
    assert first != second
    again = EvenSteps(160, 147, np.random.default_rng(0))
    assert [list(again), list(again)] == [first, second]


def test_the_table_has_the_costs_and_the_paired_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    table: Any = importlib.import_module("compare_table").table
    said = ["one two", "three four", "five six", "seven eight"]
    wrong = ["one x", *said[1:]]
    ours = {"train": 10.0, "prepare": 1.0, "bytes": 2e6, "train_clips": 9, "test_clips": 4}
    ours |= {"steps": 9, "forecast": None, "speakers": [*"abcd"]}
    ours |= {"single": [*zip(said, wrong, strict=True)], "long": []}
    fair = {"train": 40.0, "speakers": [*"abcd"], "long": [], "single": [(it, it) for it in said]}
    args = argparse.Namespace(lang="hi", base_model="base", epochs=1, sides=["ours", "fair"])
    given = {"earlier": None, "variant": [], "seeds": 1, "limit_train": 9, "limit_test": None}
    vars(args).update(given | {"score_clips": None, "sets": [], "compute_type": "float16"})
    lines = table(args, "corpus.tar.gz", {"ours": [ours], "fair": [fair]}).splitlines()
    assert "| ours | 10.0 | 1.00 | 1.0 | 2.0 | 12.5 | 8.3 |  |  |" in lines
    row = next(line for line in lines if line.startswith("| fair |")).split(" | ")
    assert row[1:5] == ["40.0", "4.00", "", ""]
    assert row[5].startswith("0.0 (-12.5: -37.5 to +0.0)")


def test_the_losses_of_two_trainings_are_paired_by_step(tmp_path: Path) -> None:
    steps = {"ours": [9.0, 2.0, 1.0, 3.0, 5.0], "other": [9.0, 2.5, 1.5, 3.5]}
    for name, values in steps.items():
        folder = JobDir(tmp_path / name).stage_dir("train")
        folder.mkdir(parents=True)
        rows = [json.dumps({"step": 1 + step, "loss": loss}) for step, loss in enumerate(values)]
        (folder / "history.jsonl").write_text("\n".join(rows) + "\n")
    found = {name: losses(tmp_path / name) for name in steps}
    assert table(found, 1)[2:] == [
        "| ours | 2.000 |  |",
        "| other | 2.500 | +0.500: +0.500 to +0.500 |",
    ]
    with pytest.raises(SystemExit, match="3 of 4 steps"):
        table(found, 3)
