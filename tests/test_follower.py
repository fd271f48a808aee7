"""What follows a running stage to the store of its job, when the store is slow."""

import threading
from pathlib import Path

import pytest

from lorajob.jobdir import JobDir
from lorajob.spec import JobSpec
from lorajob.worker import follower
from lorajob.worker.artifacts import JobStore
from lorajob.worker.follower import Follower
from lorajob.worker.records import Claim
from lorajob.worker.remote import Errand, run_stored
from lorajob.worker.supervisor import Committed, Failed, Outcome, Stopped, Watch
from tests.command import job_record
from tests.service import wait_for

CLAIM = Claim("hi-1", "train", 3, "owner")


@pytest.fixture
def stored(tmp_path: Path) -> JobStore:
    made = JobStore(f"file://{tmp_path}/store/hi-1", tmp_path / "jobs")
    made.store.write("spec.json", b"{}")
    return made


def test_a_slow_push_of_the_log_does_not_undo_the_last(stored: JobStore, monkeypatch):
    monkeypatch.setattr(follower, "LOG_SECONDS", 0.01)
    write, sending, goes_on = stored.store.write, threading.Event(), threading.Event()

    def slow_once(name: str, data: bytes) -> None:
        if threading.current_thread().name == "follower" and not sending.is_set():
            sending.set()
            goes_on.wait(20)
        write(name, data)

    monkeypatch.setattr(stored.store, "write", slow_once)
    log = stored.job.log_path("train")
    log.parent.mkdir(parents=True)
    follows = Follower(stored, CLAIM)
    with follows:
        log.write_text("early\n")
        assert sending.wait(20)
        log.write_text("early\nlate\n")
    last = threading.Thread(target=follows.push_log)
    last.start()
    last.join(timeout=0.5)  # it waits for the other, which is older
    goes_on.set()
    last.join(timeout=20)
    wait_for(lambda: not any(t.name == "follower" for t in threading.enumerate()), 20)
    assert stored.store.read("log/train/3.log") == b"early\nlate\n"


@pytest.mark.parametrize(
    "outcome", [Committed({}), Stopped("forgotten"), Failed("memory", "none is left")]
)
@pytest.mark.parametrize("prunes_first", [True, False])
def test_a_stale_owner_brings_nothing_of_a_pruned_job_back(
    stored: JobStore, tmp_path: Path, outcome: Outcome, prunes_first: bool
):
    spec = JobSpec(language="hi", corpus="/nowhere").model_dump_json()
    stored.store.write("spec.json", spec.encode())
    record = job_record(tmp_path / "unused", "hi-1", folder=stored.store.url)

    def run(job: JobDir, watch: Watch) -> Outcome:
        out = job.new_attempt("preprocess", 3)
        (out / "clips").write_bytes(b"c")
        job.commit("preprocess", out, {})
        job.log_path("preprocess").parent.mkdir(parents=True)
        job.log_path("preprocess").write_text("said\n")
        stored.store.remove()
        return outcome

    if prunes_first:
        stored.store.remove()
    claim = Claim("hi-1", "preprocess", 3, "owner")
    ended = run_stored(stored, record, claim, Errand(lambda _: None, 0.05, 1), run, 1e9)
    if prunes_first or isinstance(outcome, Committed):
        assert ended == Failed("damage", f"{stored.store.url}/spec.json is gone")
    else:
        assert ended == outcome
    assert stored.store.names() == {}


def test_what_follows_a_running_stage_ends_with_its_job(stored, monkeypatch, caplog):
    monkeypatch.setattr(follower, "LOG_SECONDS", 0.01)
    log = stored.job.log_path("train")
    log.parent.mkdir(parents=True)
    with Follower(stored, CLAIM):
        log.write_text("early\n")
        wait_for(lambda: stored.store.names("log"))
        stored.store.remove()
        log.write_text("early\nlate\n")
        wait_for(lambda: "spec.json is gone" in caplog.text)
    wait_for(lambda: not any(t.name == "follower" for t in threading.enumerate()), 20)
    assert stored.store.names() == {}
