"""A store that holds what no worker has put there."""

import hashlib
import json
import threading
from pathlib import Path

import pytest

from lorajob.job.results import StageResult
from lorajob.storage.store import Check, DamageError
from lorajob.worker.artifacts.checkpoints import fetch_checkpoint
from lorajob.worker.artifacts.job_store import JobStore, tree_name

ENTRY = {"bytes": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
OUTSIDE = (
    "../../escaped",
    "a/../../../escaped",
    "/tmp/lorajob-escaped",
    "..",
    "a//b",
    "a\0b",
    "",
    ".",
)


@pytest.fixture
def stored(tmp_path: Path) -> JobStore:
    return JobStore(f"file://{tmp_path}/store/hi-1", tmp_path / "jobs")


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_manifest_names_a_file_outside_its_folder(stored: JobStore, name: str, tmp_path: Path):
    manifest = {"stage": "train", "files": {name: ENTRY}, "result": {}}
    text = json.dumps(manifest | {"tree": tree_name(manifest)}).encode()
    stored.store.write("train/attempt-1.json", text)
    stored.store.write("checkpoints/1-10/manifest.json", text)
    stored.store.write("train/escaped", b"evil")  # where `..` leads in the store
    stored.store.write("escaped", b"evil")
    before = {path for path in tmp_path.rglob("*") if "jobs" not in path.parts}
    with pytest.raises(DamageError, match="not the name of a file"):
        stored.fetch_stage("train", 1)
    fetch_checkpoint(stored)
    assert before == {path for path in tmp_path.rglob("*") if "jobs" not in path.parts}
    assert not list((tmp_path / "jobs").rglob("escaped"))


def test_two_that_fetch_at_once_take_nothing_from_each_other(stored: JobStore, tmp_path: Path):
    """As two `transcribe` of one job on a machine that has not its model yet."""
    out = stored.job.new_attempt("convert", 1)
    for number in range(4):
        (out / f"part-{number}").write_bytes(b"w" * 1000)
    stored.job.commit("convert", out, StageResult())
    stored.push("convert", 1)
    here = [JobStore(stored.store.url, tmp_path / "here") for _ in range(2)]
    begun, goes_on, errors = threading.Event(), threading.Event(), []

    def wait() -> None:
        if len(list((here[0].job.root / "convert").glob("part-*"))) == 2:
            begun.set()
            goes_on.wait(240)

    def fetch(one: JobStore, check: Check) -> None:
        try:
            one.fetch_stage("convert", 1, check=check)
            assert one.job.result("convert") == StageResult()
            assert len(list((one.job.root / "convert").glob("part-*"))) == 4
        except BaseException as error:  # else lost with the thread; asserted to be none
            errors.append(error)

    first = threading.Thread(target=fetch, args=(here[0], wait))
    first.start()
    assert begun.wait(240)
    second = threading.Thread(target=fetch, args=(here[1], goes_on.set))
    second.start()
    second.join(timeout=120)
    goes_on.set()
    first.join(timeout=120)
    assert errors == []


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"files": []}', b'{"files": {"a": {}}}'])
def test_what_is_no_manifest_is_named_and_passed_over(stored: JobStore, text: bytes, caplog):
    stored.store.write("checkpoints/1-10/manifest.json", text)
    fetch_checkpoint(stored)
    assert "the checkpoint of step 10 is skipped" in caplog.text
    stored.store.write("train/attempt-1.json", text)
    with pytest.raises(DamageError, match=r"attempt-1\.json is damaged"):
        stored.fetch_stage("train", 1)
    stored.store.write("spec.json", b"{")
    with pytest.raises(DamageError, match=r"spec\.json is damaged"):
        stored.fetch_spec()
