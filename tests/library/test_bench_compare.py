"""The fair baseline and the table of bench/compare.py, bench/online.py and bench/openbook.py."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import online, openbook
from bench.even_steps import EvenSteps
from bench.online import table

from lorajob.decoding.fallback import Transcript
from lorajob.job.jobdir import JobDir
from tests.support.tiny import make_job


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


def write_losses(job: JobDir, *losses: float) -> None:
    folder = job.stage_dir("train")
    folder.mkdir(exist_ok=True)
    rows = [json.dumps({"step": 1 + step, "loss": loss}) for step, loss in enumerate(losses)]
    (folder / "history.jsonl").write_text("\n".join(rows) + "\n")


def test_the_losses_of_two_trainings_are_paired_by_step() -> None:
    found = {"ours": np.array([9.0, 2.0, 1.0, 3.0, 5.0]), "other": np.array([9.0, 2.5, 1.5, 3.5])}
    assert table(found, 1)[2:] == [
        "| ours | 2.000 |  |",
        "| other | 2.500 | +0.500: +0.500 to +0.500 |",
    ]
    with pytest.raises(SystemExit, match="3 of 4 steps"):
        table(found, 3)


def test_only_the_first_epoch_of_jobs_with_one_seed_is_compared(
    tiny_whisper: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = ("train.batch_clips=4", "train.epochs=2", "train.single_clips=1", "train.cut_clips=1")
    folders = [tmp_path / it / "hi-1" for it in ("one", "two", "three")]
    jobs = [make_job(it, tiny_whisper, *sets, f"seed={it == folders[2]:d}") for it in folders]

    def run(*places: Path) -> str:
        monkeypatch.setattr("sys.argv", ["online.py", "--skip", "0", *map(str, places)])
        assert online.main() == 0
        return capsys.readouterr().out

    with pytest.raises(SystemExit, match=r"one/hi-1: has no training to read: .*history\.jsonl"):
        run(folders[0])
    # Three steps of four clips are an epoch.
    for job, loss in zip(jobs, (2.0, 3.0, 2.0), strict=True):
        write_losses(job, *[loss] * 3, *[0.5] * 3)
    said = run(*folders[:2])
    assert "| loss, steps 1 to 3 |" in said
    assert f"| {folders[0]} | 2.000 |  |" in said
    assert f"| {folders[1]} | 3.000 | +1.000: +1.000 to +1.000 |" in said
    with pytest.raises(SystemExit, match="different seeds"):
        run(*folders)
    with pytest.raises(SystemExit, match=f"{tmp_path}: is no job"):
        run(tmp_path)


@pytest.mark.parametrize("terms", ["1", "20000"])
def test_a_glossary_that_the_bench_cannot_draw_is_refused_in_one_line(
    terms: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["openbook.py", "jobs/hi-1", "--terms", "20", terms])
    with pytest.raises(SystemExit):
        openbook.main()
    assert capsys.readouterr().err.splitlines()[-1].endswith("error: --terms: 4 to 12,000")


def test_clips_share_a_glossary_as_long_as_it_has_room_for_their_rare_words() -> None:
    rare = openbook.rare_words(["mango papaya the", "mango kiwi", "lemon papaya"], ["the"], "en")
    assert rare == [["papaya", "mango"], ["kiwi", "mango"], ["lemon", "papaya"]]
    clips: Any = argparse.Namespace(rare=rare)
    assert [*openbook.groups(clips, 3)] == [
        ([0, 1], ["papaya", "mango", "kiwi"]),
        ([2], ["lemon", "papaya"]),
    ]
    assert [places for places, _ in openbook.groups(clips, 4)] == [[0, 1, 2]]


def test_false_alarms_that_are_near_forms_are_counted_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clips = openbook.Clips.__new__(openbook.Clips)
    clips.language, clips.texts, clips.shows_alarms = "en", ["the mango trees"], True
    terms = ("mangos", "papaya", "trees")
    assert clips.forms(0, Transcript(" ".join(terms), 9, 0.0, 0.0, 0.0, terms)) == 1
    shown = capsys.readouterr().err
    assert "near form: mangos" in shown and "wrong word: papaya" in shown and "trees:" not in shown
