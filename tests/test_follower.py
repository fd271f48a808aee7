"""What follows a running stage to the store of its job, when the store is slow."""

import threading
from pathlib import Path

import pytest

from lorajob.worker import follower
from lorajob.worker.artifacts import JobStore
from lorajob.worker.follower import Follower
from lorajob.worker.records import Claim
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
