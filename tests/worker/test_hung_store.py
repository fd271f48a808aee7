"""A store that takes connections and answers nothing."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorajob.errors import ServiceError
from lorajob.spec import JobSpec
from lorajob.storage.store import Store, StoreError, unhurried
from lorajob.tasks.jobs import Jobs
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.artifacts.stored_job import begin
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim, Records
from tests.support.command import job_record


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The url of a bucket there; it is waited for a moment only."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}"),
            ("AWS_ACCESS_KEY_ID", "lorajob-tests"),
            ("AWS_SECRET_ACCESS_KEY", "s3-secret-of-the-tests"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("lorajob.storage.store.READ_SECONDS", 0.1)
        yield "s3://hung"
        server.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


def test_nobody_waits_for_it_for_ever(hung: str, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    told: list[str] = []

    def ask() -> None:
        store = Store(hung)
        for call in (
            lambda: store.write("name", b"x"),
            lambda: store.upload(tmp_path / "file", "name"),
            lambda: store.read("name"),
        ):
            try:
                call()
            except StoreError as error:
                told.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout=240)
    assert len(told) == 3 and all("Read timeout" in text for text in told)


def test_it_outlasts_no_lease_of_a_claim(redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    records = Records(redis)
    stored = JobStore(f"file://{tmp_path}/store/hi-0000000a", tmp_path / "jobs")
    place = {"folder": stored.store.url}
    records.create(job_record(tmp_path, "hi-0000000a").model_copy(update=place))
    stored.store.write("spec.json", b"{}")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", lambda *_: pytest.fail("the claim waits for the store"))
        claim = records.claim("hi-0000000a", "preprocess", "cpu@a", 90, 3)
    assert isinstance(claim, Claim)
    with pytest.raises(Exception, match="language"):  # of that spec
        begin(stored, records.load(claim.job_id), claim, unhurried)
    written = JobRecord.parse(stored.store.read("job.json") or b"", "job.json")
    assert written.stages["preprocess"].worker == "cpu@a"


def test_what_was_not_sent_is_not_queued_though_the_store_went_away(
    redis_server, redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = redis_server.model_copy(update={"artifacts": f"file://{tmp_path}/store"})
    jobs = Jobs(settings)
    spec = JobSpec(language="hi", corpus="/nowhere")

    def send(_: JobRecord) -> None:
        monkeypatch.setattr(Store, "remove", away)
        raise ServiceError("Redis did not take it")

    def away(*_: object) -> None:
        raise StoreError("the store is away")

    record = jobs.new_record(spec, "hi-0000000b")
    with pytest.raises(ServiceError, match="did not take it"):
        jobs.queue(record, spec, send)
    assert not jobs.records.known(record.id)
    assert jobs.records.queued() == 0
