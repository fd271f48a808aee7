"""What follows a running stage to the store of its job, when the store is slow."""

import threading
from pathlib import Path

import pytest

from lorajob.job.jobdir import JobDir
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.storage.store import Store
from lorajob.worker.artifacts import follower
from lorajob.worker.artifacts.follower import Follower
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.artifacts.stored_job import StoredJob
from lorajob.worker.artifacts.transfer import Errand
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim
from lorajob.worker.supervision.outcome import (
    Committed,
    Failed,
    Listener,
    Outcome,
    Progress,
    Stopped,
    StopReason,
)
from tests.support.command import job_record
from tests.support.listening import Listening
from tests.support.service import wait_for

CLAIM = Claim("hi-1", "train", 3, "owner")
PREPROCESS = Claim("hi-1", "preprocess", 3, "owner")


@pytest.fixture
def stored(tmp_path: Path) -> JobStore:
    made = JobStore(f"file://{tmp_path}/store/hi-1", tmp_path / "jobs")
    made.store.write("spec.json", b"{}")
    return made


def far_record(stored: JobStore, tmp_path: Path) -> JobRecord:
    """The record of a job whose spec is in the store."""
    spec = JobSpec(language="hi", corpus="/nowhere").model_dump_json()
    stored.store.write("spec.json", spec.encode())
    return job_record(tmp_path / "unused", "hi-1", folder=stored.store.url)


def commit(job: JobDir) -> None:
    """What a stage does that prepares two clips."""
    out = job.new_attempt("preprocess", 3)
    for name in ("clips", "table"):
        (out / name).write_bytes(b"c")
    job.commit("preprocess", out, StageResult())
    job.log_path("preprocess").parent.mkdir(parents=True)
    job.log_path("preprocess").write_text("said\n")


def test_a_slow_push_of_the_log_does_not_undo_the_last(stored: JobStore, monkeypatch):
    monkeypatch.setattr(follower, "LOG_SECONDS", 0.01)
    write, sending, goes_on = stored.store.write, threading.Event(), threading.Event()

    def slow_once(name: str, data: bytes) -> None:
        if threading.current_thread().name == "follower" and not sending.is_set():
            sending.set()
            goes_on.wait(240)
        write(name, data)

    monkeypatch.setattr(stored.store, "write", slow_once)
    log = stored.job.log_path("train")
    log.parent.mkdir(parents=True)
    follows = Follower(stored, CLAIM)
    with follows:
        log.write_text("early\n")
        assert sending.wait(240)
        log.write_text("early\nlate\n")
    last = threading.Thread(target=follows.push_log)
    last.start()
    last.join(timeout=0.5)  # it waits for the other, which is older
    goes_on.set()
    last.join(timeout=120)
    wait_for(lambda: not any(t.name == "follower" for t in threading.enumerate()), 20)
    assert stored.store.read("log/train/3.log") == b"early\nlate\n"


@pytest.mark.parametrize(
    "outcome", [Committed(StageResult()), Stopped("forgotten"), Failed("memory", "none is left")]
)
@pytest.mark.parametrize("prunes_first", [True, False])
def test_a_stale_owner_brings_nothing_of_a_pruned_job_back(
    stored: JobStore, tmp_path: Path, outcome: Outcome, prunes_first: bool
):
    record = far_record(stored, tmp_path)

    def run(job: JobDir, listener: Listener) -> Outcome:
        commit(job)
        stored.store.remove()
        return outcome

    if prunes_first:
        stored.store.remove()
    errand = Errand(Listening(), 0.05, 1)
    ended = StoredJob(stored, 1e9).run(record, PREPROCESS, errand, run)
    if prunes_first or isinstance(outcome, Committed):
        assert ended == Failed("damage", f"{stored.store.url}/spec.json is missing")
    else:
        assert ended == outcome
    assert stored.store.names() == {}


@pytest.mark.parametrize("forgotten", [True, False])
@pytest.mark.parametrize("method", ["upload", "write"])
def test_what_a_stale_owner_brings_while_its_job_is_pruned_is_removed(
    stored: JobStore, tmp_path: Path, monkeypatch, method: str, forgotten: bool
):
    """Redis, where the owner reaches it, tells of the prune in the middle of the push."""
    record, pruned = far_record(stored, tmp_path), threading.Event()
    send, heard = getattr(stored.store, method), []

    def watch(_: Progress | None) -> StopReason | None:
        if not forgotten or not pruned.is_set():
            return None
        heard.append("forgotten")
        return "forgotten"

    def prune_and_send(*args: object) -> None:
        if not pruned.is_set():
            StoredJob(stored, 1e9).withdraw()
            pruned.set()
            wait_for(lambda: not forgotten or len(heard) > 1)
        send(*args)

    def run(job: JobDir, listener: Listener) -> Outcome:
        commit(job)
        monkeypatch.setattr(stored.store, method, prune_and_send)
        return Committed(StageResult())

    errand = Errand(Listening(watch), 0.05, 1)
    ended = StoredJob(stored, 1e9).run(record, PREPROCESS, errand, run)
    assert ended == Failed("damage", f"{stored.store.url}/spec.json is missing")
    assert stored.store.names() == {}


def test_a_job_that_is_pruned_as_its_stage_begins_does_not_come_back(
    stored: JobStore, tmp_path: Path, monkeypatch
):
    record, save = far_record(stored, tmp_path), JobRecord.save

    def prune_and_save(record: JobRecord) -> None:
        StoredJob(stored, 1e9).withdraw()
        save(record)

    monkeypatch.setattr(JobRecord, "save", prune_and_save)
    errand = Errand(Listening(), 0.05, 1)
    files = StoredJob(stored, 1e9)
    ended = files.run(record, PREPROCESS, errand, lambda *_: pytest.fail("it ran"))
    assert ended == Failed("damage", f"{stored.store.url}/spec.json is missing")
    assert stored.store.names() == {}


@pytest.mark.parametrize(
    ("heard", "spec_goes", "stays"),
    [("forgotten", True, False), (None, True, True), ("forgotten", False, True)],
    ids=["pruned", "the store was wiped", "redis was wiped"],
)
def test_the_copy_here_goes_with_a_job_that_neither_redis_nor_the_store_knows(
    stored: JobStore, tmp_path: Path, heard: StopReason | None, spec_goes: bool, stays: bool
):
    record, ran = far_record(stored, tmp_path), threading.Event()

    def run(job: JobDir, listener: Listener) -> Outcome:
        commit(job)
        if spec_goes:
            StoredJob(stored, 1e9).withdraw()
        ran.set()
        return Committed(StageResult())

    errand = Errand(Listening(lambda _: heard if ran.is_set() else None), 0.05, 1)
    StoredJob(stored, 1e9).run(record, PREPROCESS, errand, run)
    assert stored.job.root.exists() == stays


def test_a_job_in_a_store_goes_by_its_spec_first(stored: JobStore, monkeypatch):
    """Who brings something that the removal did not list yet then finds that the job is gone."""
    stored.store.write("job.json", b"{}")
    remove, there = Store.remove, []

    def look_and_remove(store: Store, folder: str = "") -> None:
        there.append(sorted(store.names()))
        remove(store, folder)

    monkeypatch.setattr(Store, "remove", look_and_remove)
    StoredJob(stored, 1e9).withdraw()
    assert there[-1] == ["job.json"] and stored.store.names() == {}


def test_what_follows_a_running_stage_ends_with_its_job(stored, monkeypatch, caplog):
    monkeypatch.setattr(follower, "LOG_SECONDS", 0.01)
    log = stored.job.log_path("train")
    log.parent.mkdir(parents=True)
    with Follower(stored, CLAIM):
        log.write_text("early\n")
        wait_for(lambda: stored.store.names("log"))
        stored.store.remove()
        log.write_text("early\nlate\n")
        wait_for(lambda: "spec.json is missing" in caplog.text)
    wait_for(lambda: not any(t.name == "follower" for t in threading.enumerate()), 20)
    assert stored.store.names() == {}


def test_what_follows_a_running_stage_while_its_job_is_pruned_is_removed(
    stored: JobStore, monkeypatch, caplog
):
    monkeypatch.setattr(follower, "LOG_SECONDS", 0.01)
    write = stored.store.write

    def prune_and_write(name: str, data: bytes) -> None:
        StoredJob(stored, 1e9).withdraw()
        write(name, data)

    monkeypatch.setattr(stored.store, "write", prune_and_write)
    log = stored.job.log_path("train")
    log.parent.mkdir(parents=True)
    with Follower(stored, CLAIM):
        log.write_text("early\n")
        wait_for(lambda: "spec.json is missing" in caplog.text)
    wait_for(lambda: not any(t.name == "follower" for t in threading.enumerate()), 20)
    assert stored.store.names() == {}
