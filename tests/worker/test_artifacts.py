"""Artifacts in an object store: pushed, resumed, verified, fenced, fetched and made room for."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from lorajob.errors import UsageError
from lorajob.job.jobdir import REPORT_FILES, STAGES, JobDir, hash_files, write_json
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.storage.store import DamageError, Store, StoreError
from lorajob.worker.artifacts import workplace
from lorajob.worker.artifacts.checkpoints import fetch_checkpoint, push_checkpoint
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.artifacts.stored_job import StoredJob
from lorajob.worker.artifacts.transfer import Errand
from lorajob.worker.records.record import JobRecord, new_stages
from lorajob.worker.settings import Settings
from lorajob.worker.supervision.outcome import Stopped
from lorajob.worker.supervision.supervisor import child_environment
from tests.support.listening import Listening
from tests.support.ports import free_port

PUSH_TWO_FILES_AND_DIE = """
import os, signal, sys
from pathlib import Path
from lorajob.worker.artifacts.job_store import JobStore

calls = []
def check():
    calls.append(None)
    done = len(stored.store.names("preprocess"))
    if done >= 2:
        os.kill(os.getpid(), signal.SIGKILL)

stored = JobStore(sys.argv[1], Path(sys.argv[2]))
stored.push("preprocess", 1, check)
"""
SPEC = json.dumps(JobSpec(language="hi", corpus="/nowhere").model_dump(mode="json")).encode()
WRITE = """
import sys
from lorajob.storage.store import Store, StoreError

try:
    Store(sys.argv[1]).write("x", b"1")
except StoreError as error:
    print(error)
"""


@pytest.fixture
def url(bucket: str, request: pytest.FixtureRequest) -> str:
    """The place of a job of its own."""
    name = "hi-" + request.node.name.replace("_", "-").removeprefix("test-")[:50].rstrip("-")
    url = f"{bucket}/{request.module.__name__.replace('.', '-')}/{name}"
    Store(url).write("spec.json", SPEC)
    return url


def commit(stored: JobStore, stage: str, attempt: int, **files: bytes) -> None:
    """A stage committed on this machine."""
    out = stored.job.new_attempt(stage, attempt)
    for name, data in files.items():
        path = out / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    stored.job.commit(stage, out, StageResult(attempt=attempt))


def checkpoint(job: JobDir, attempt: int, step: int, **others: bytes) -> None:
    folder = job.checkpoints / str(attempt) / f"step-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter.bin").write_bytes(b"%d" % step)
    for name, data in others.items():
        (folder / name).write_bytes(data)
    write_json(folder / "manifest.json", {"files": hash_files(folder)})


def test_what_one_machine_commits_another_has(url: str, tmp_path: Path):
    here, there = JobStore(url, tmp_path / "a"), JobStore(url, tmp_path / "b")
    commit(here, "preprocess", 3, train__clips=b"t" * 100, test__clips=b"e" * 50, report=b"{}")
    here.push("preprocess", 3)
    there.fetch_spec()
    there.fetch_stage("preprocess", 3, ("train/",))
    folder = there.job.stage_dir("preprocess")
    assert {path.name for path in folder.iterdir()} == {"train", "manifest.json"}
    there.fetch_stage("preprocess", 3)
    assert hash_files(folder) == hash_files(here.job.stage_dir("preprocess"))
    assert there.job.result("preprocess") == StageResult(attempt=3)
    here.fetch_spec()
    assert here.safe and there.safe
    assert there.last_attempt("preprocess") == 3


def test_a_report_of_a_stored_job_fetches_the_result_of_convert_and_no_model(
    tmp_path: Path,
):
    url = f"memory://{tmp_path.name}/hi-1"
    Store(url).write("spec.json", SPEC)
    here, there = JobStore(url, tmp_path / "here"), JobStore(url, tmp_path / "there")
    stages = new_stages()
    for stage in STAGES:
        commit(here, stage, 1, model=b"weights")
        here.push(stage, 1)
        stages[stage] = stages[stage].model_copy(update={"state": "succeeded", "attempt": 1})
    record = JobRecord(
        id="hi-1",
        language="hi",
        created_at=0.0,
        corpus="c",
        base_model="b",
        folder=url,
        stages=stages,
    )
    with StoredJob(there, 1e9).local(lambda: record, *REPORT_FILES) as job:
        assert [stage for stage in STAGES if job.result(stage) is None] == []
        assert (job.stage_dir("evaluate") / "model").read_bytes() == b"weights"
        assert not (job.stage_dir("convert") / "model").exists()


def test_a_folder_from_before_the_store_is_never_removed(bucket: str, tmp_path: Path):
    write_json(tmp_path / "hi-old" / "spec.json", {})  # queued, with nothing but its spec
    workplace.trim_copies(JobStore(f"{bucket}/room/hi-new", tmp_path), 0)
    assert (tmp_path / "hi-old" / "spec.json").exists()


def test_a_transfer_keeps_the_lease_and_waits_for_a_store_that_is_away():
    heard, tries = [], []

    def work(check):
        tries.append(check)
        if len(tries) < 3:
            raise StoreError("away")
        return "there"

    errand = Errand(Listening(heard.append), 0.05, 1.0)
    assert errand.run(work) == "there"
    assert len(tries) == 3 and len(heard) >= 5


@pytest.mark.parametrize("reason", ["superseded", "cancelled", "shutdown"])
def test_a_transfer_stops_when_its_stage_must(reason: str):
    def endless(check):
        while True:
            check()
            time.sleep(0.01)

    assert Errand(Listening(lambda _: reason), 0.05, 0.2).run(endless) == Stopped(reason)


def test_damage_is_told_at_once():
    def work(check):
        raise DamageError("not as it was")

    with pytest.raises(DamageError):
        Errand(Listening(), 0.05, 1.0).run(work)


def test_a_killed_upload_goes_on_where_it_stopped(url: str, tmp_path: Path):
    stored = JobStore(url, tmp_path)
    files = {f"part{number}": bytes([number]) * 1000 for number in range(5)}
    commit(stored, "preprocess", 1, **files)
    command = [sys.executable, "-c", PUSH_TWO_FILES_AND_DIE, url, str(tmp_path)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    half = stored.store.names("preprocess")
    assert len(half) == 2 and stored.attempts("preprocess") == []
    assert not stored.safe
    before = {name: stored.store.info(name)["LastModified"] for name in half}
    wait_until_the_second_is_over()
    stored.push("preprocess", 2)  # by a later attempt
    assert {name: stored.store.info(name)["LastModified"] for name in half} == before
    assert len(stored.store.names("preprocess")) == 5 + 1
    assert stored.attempts("preprocess") == [2]


def wait_until_the_second_is_over() -> None:
    """The store tells times in whole seconds."""
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.05)


def test_a_half_uploaded_file_is_uploaded_anew(url: str, tmp_path: Path):
    stored = JobStore(url, tmp_path)
    commit(stored, "convert", 1, model=b"m" * 1000)
    stored.push("convert", 1)
    (name,) = [name for name in stored.store.names("convert") if name.endswith("/model")]
    stored.store.write(name, b"x" * 1000)
    stored.push("convert", 2)
    assert stored.store.read(name) == b"m" * 1000


def test_a_damaged_object_is_known_by_its_hash(url: str, tmp_path: Path):
    here, there = JobStore(url, tmp_path / "a"), JobStore(url, tmp_path / "b")
    commit(here, "train", 1, adapter__weights=b"w" * 1000)
    here.push("train", 1)
    (name,) = [name for name in here.store.names("train") if name.endswith("weights")]
    here.store.write(name, b"w" * 999 + b"x")
    with pytest.raises(DamageError, match=r"adapter/weights is not as the manifest of stage train"):
        there.fetch_stage("train", 1)
    assert there.job.result("train") is None
    assert not (there.job.stage_dir("train") / "adapter" / "weights").exists()
    here.store.remove(name)
    with pytest.raises(DamageError, match="adapter/weights is missing"):
        there.fetch_stage("train", 1)


def test_a_stale_owner_overwrites_nothing(url: str, tmp_path: Path):
    stale, owner = JobStore(url, tmp_path / "stale"), JobStore(url, tmp_path / "owner")
    commit(stale, "train", 1, adapter__weights=b"of a lost attempt")
    commit(owner, "train", 2, adapter__weights=b"of the owner")
    owner.push("train", 2)
    stale.push("train", 1)  # unaware that it lost its claim
    for name in ("stale", "third"):  # what the stale one has here gives way, too
        reader = JobStore(url, tmp_path / name)
        reader.fetch_stage("train", 2)
        weights = reader.job.stage_dir("train") / "adapter" / "weights"
        assert weights.read_bytes() == b"of the owner"


def test_a_stage_that_is_whole_in_the_store_is_not_run_again(url: str, tmp_path: Path):
    first, second = JobStore(url, tmp_path / "a"), JobStore(url, tmp_path / "b")
    assert second.adopt("evaluate", 1) is None
    commit(first, "evaluate", 1, metrics=b"{}")
    first.push("evaluate", 1)  # and its worker dies before the record hears of it
    assert second.adopt("evaluate", 2) == StageResult(attempt=1)
    second.fetch_stage("evaluate", 2)
    assert (second.job.stage_dir("evaluate") / "metrics").read_bytes() == b"{}"


def test_only_the_newest_checkpoint_is_kept_in_the_store(url: str, tmp_path: Path):
    here, there = JobStore(url, tmp_path / "a"), JobStore(url, tmp_path / "b")
    here.fetch_spec()
    for step in (10, 20):
        checkpoint(here.job, 1, step)
        assert not here.safe
        push_checkpoint(here)
        assert here.safe
    assert here.checkpoints() == [(1, 20)]
    fetch_checkpoint(there)
    assert (there.job.checkpoints / "1" / "step-20" / "adapter.bin").read_bytes() == b"20"
    checkpoint(there.job, 2, 15)  # of a later attempt
    push_checkpoint(there)
    checkpoint(here.job, 1, 30)
    push_checkpoint(here)  # by an owner that lost its claim
    assert here.checkpoints()[-1] == (2, 15)
    assert there.last_attempt("train") == 2


def test_a_file_that_has_not_changed_is_not_sent_again(url: str, tmp_path: Path, monkeypatch):
    here, there = JobStore(url, tmp_path / "a"), JobStore(url, tmp_path / "b")
    sent = []
    upload = Store.upload

    def noted(self: Store, path: Path, name: str) -> None:
        sent.append(path.name)
        upload(self, path, name)

    monkeypatch.setattr(Store, "upload", noted)
    for step in (10, 20):
        checkpoint(here.job, 1, step, history=b"the first thousand steps")
        push_checkpoint(here)
    assert sorted(sent) == ["adapter.bin", "adapter.bin", "history"]
    fetch_checkpoint(there)
    fetched = there.job.checkpoints / "1" / "step-20"
    assert (fetched / "history").read_bytes() == b"the first thousand steps"
    assert (fetched / "adapter.bin").read_bytes() == b"20"


def test_a_damaged_checkpoint_is_passed_over(url: str, tmp_path: Path, caplog):
    here, there = JobStore(url, tmp_path / "a"), JobStore(url, tmp_path / "b")
    checkpoint(here.job, 1, 10)
    push_checkpoint(here)
    here.store.write("checkpoints/1-10/adapter.bin", b"xx")
    fetch_checkpoint(there)
    assert not (there.job.checkpoints / "1" / "step-10").exists()
    assert "adapter.bin is not as its manifest says" in caplog.text


def test_room_is_made_of_what_is_safe_and_not_in_use(bucket: str, tmp_path: Path):
    artifacts = f"{bucket}/room"
    jobs = {name: JobStore(f"{artifacts}/{name}", tmp_path) for name in ("hi-1", "hi-2", "hi-3")}
    for stored in jobs.values():
        stored.store.write("spec.json", SPEC)
        stored.fetch_spec()
        commit(stored, "preprocess", 1, clips=b"c" * 10_000)
    jobs["hi-1"].push("preprocess", 1)
    jobs["hi-2"].push("preprocess", 1)
    (tmp_path / ".gone-hi-4" / "train").mkdir(parents=True)  # its remover was killed
    with workplace.hold_copy(jobs["hi-2"]):
        workplace.trim_copies(jobs["hi-3"], 0)
    assert not (tmp_path / ".gone-hi-4").exists()
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"hi-2", "hi-3"}  # one was in use, one is in no store
    jobs["hi-1"].fetch_spec()
    jobs["hi-1"].fetch_stage("preprocess", 1)
    workplace.trim_copies(jobs["hi-3"], 20_000)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"hi-1", "hi-3"}  # the longest unused went


def test_a_store_that_is_away_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    command = [sys.executable, "-c", WRITE, f"{bucket}/away"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert told.stdout.startswith(f"{bucket}/away is unavailable: "), told
    monkeypatch.undo()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    told = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert told.stdout.startswith(f"{bucket}/away is unavailable: "), told
    assert "another" not in told.stdout + told.stderr
    with pytest.raises(UsageError, match="must hold no credentials") as told:
        Store("s3://key:secret@bucket/jobs")
    assert "secret" not in str(told.value)


def test_the_place_of_artifacts_is_a_folder_or_a_url(tmp_path: Path):
    stored = Settings(home=tmp_path, artifacts="s3://bucket/jobs/")
    assert (stored.store_url, stored.jobs) == ("s3://bucket/jobs", tmp_path / "jobs")
    assert stored.environment()["LORAJOB_ARTIFACTS"] == "s3://bucket/jobs"
    plain = Settings(home=tmp_path, artifacts=tmp_path / "shared")
    assert (plain.store_url, plain.jobs) == (None, tmp_path / "shared")
    with pytest.raises((UsageError, ValidationError)):
        Settings(home=tmp_path, artifacts="s3://key:secret@bucket/jobs")


def test_a_stage_gets_no_key_of_the_store(bucket: str):
    names = child_environment()
    assert not [name for name in names if name.startswith("AWS_")]
    assert "s3-secret-of-the-tests" not in names.values()
