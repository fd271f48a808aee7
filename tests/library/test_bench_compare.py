"""The batches of the fair baseline, as bench/compare.py uses it."""

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.even_steps import EvenSteps


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
