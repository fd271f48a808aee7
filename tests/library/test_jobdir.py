import json
from pathlib import Path

import pytest

from lorajob.errors import AttemptSuperseded, StageError
from lorajob.job.jobdir import MANIFEST, JobDir, write_json
from lorajob.job.results import StageResult


def test_a_commit_brings_the_files_and_their_hashes_to_the_stages_place(tmp_path: Path) -> None:
    job = JobDir(tmp_path)
    out = job.new_attempt("train", 1)
    (out / "adapter").mkdir()
    (out / "adapter" / "weights").write_bytes(b"abc")
    assert job.result("train") is None
    assert job.commit("train", out, StageResult(steps=3)) == StageResult(steps=3)
    assert job.result("train") == StageResult(steps=3)
    manifest = json.loads((job.stage_dir("train") / MANIFEST).read_text())
    assert manifest["files"]["adapter/weights"] == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert not out.exists()


def test_the_first_commit_wins(tmp_path: Path) -> None:
    job = JobDir(tmp_path)
    first, second = job.new_attempt("train", 1), job.new_attempt("train", 2)
    assert not first.exists()
    first.mkdir()
    job.commit("train", second, StageResult(attempt=2))
    assert job.commit("train", first, StageResult(attempt=1)) == StageResult(attempt=2)
    assert not first.exists()


def test_a_folder_made_anew_after_a_later_attempt_began_is_not_committed(tmp_path: Path) -> None:
    job = JobDir(tmp_path)
    first = job.new_attempt("convert", 1)
    (first / "model").touch()
    second = job.new_attempt("convert", 2)
    write_json(first / "parity.json", {})  # makes the folder again
    with pytest.raises(AttemptSuperseded, match="a later attempt has taken over"):
        job.commit("convert", first, StageResult(attempt=1))
    assert job.result("convert") is None
    assert job.commit("convert", second, StageResult(attempt=2)) == StageResult(attempt=2)
    assert sorted(path.name for path in job.stage_dir("convert").iterdir()) == [MANIFEST]


def test_a_new_attempt_removes_what_earlier_ones_left_and_no_other(tmp_path: Path) -> None:
    job = JobDir(tmp_path)
    later, other = job.new_attempt("train", 5), job.new_attempt("evaluate", 1)
    job.new_attempt("train", 3)
    (tmp_path / "attempts" / "train-3" / "half").touch()
    fresh = job.new_attempt("train", 4)
    assert sorted(path.name for path in fresh.parent.iterdir()) == [
        "evaluate-1",
        "train-4",
        "train-5",
    ]
    assert later.exists()
    assert other.exists()


def test_a_stage_wants_the_ones_before_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="stage preprocess has not finished"):
        JobDir(tmp_path).require("preprocess")
