"""The service takes corpora of other machines, within limits, and drops unused ones."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from starlette.testclient import TestClient

from lorajob.errors import DiskError, ServiceError
from lorajob.server.web import api_corpora
from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import WebService, open_service
from lorajob.spec import build_spec
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.prune import prune_all
from lorajob.tasks.uploads import Upload, Uploads
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import job_record
from tests.support.uploads import asked, packed

SEND = {"Authorization": "Bearer send"}
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def service(redis: Redis, redis_server: Settings, tmp_path: Path) -> Iterator[WebService]:
    keys = {"submit_keys": SecretStr("ana=send"), "view_keys": SecretStr("ben=see")}
    places = {"home": tmp_path / "home", "artifacts": tmp_path / "jobs", "uploads_gb": 1e-6}
    service = open_service(redis_server.model_copy(update=keys | places))
    yield service
    service.close()


@pytest.fixture
def client(service: WebService) -> Iterator[TestClient]:
    with TestClient(create_web_app(service), headers=SEND) as client:
        yield client


def said(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def test_pieces_are_taken_in_order_and_the_hash_is_checked(
    client: TestClient, service: WebService
) -> None:
    data = b"0123456789" * 20
    query = asked(data)

    def send(offset: int | None, piece: bytes = b"", **changes: Any) -> Any:
        more = {} if offset is None else {"offset": offset}
        headers = OCTETS
        return client.post(
            "/api/corpora", params=query | more | changes, content=piece, headers=headers
        )

    assert send(None).json() == {"received": 0, "corpus": None}
    assert send(0, data[:50]).json() == {"received": 50, "corpus": None}
    assert send(None).json()["received"] == 50
    assert "offset: is 20, and the next byte is 50" in said(send(20, data[20:]), 409)
    assert "the body is longer than the rest of the file" in said(send(50, data), 422)
    assert send(None).json()["received"] == 50
    uploads = Uploads(service.settings)
    with uploads.held(Upload("hi.tar", query["sha256"], 200)):
        assert "is being sent by another request" in said(send(50, data[50:]), 429)
    path = send(50, data[50:]).json()["corpus"]
    assert Path(path).read_bytes() == data
    assert send(None).json() == send(0, data).json() == {"received": 200, "corpus": path}
    other = b"x" * 200
    query = asked(other)
    assert "the received file has another hash; hi.tar changed" in said(send(0, data), 422)
    assert send(None).json()["received"] == 0
    assert said(
        client.post("/api/corpora", params=query, headers={"Authorization": "Bearer see"}), 403
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"name": "../hi.tar"}, "name: '../hi.tar' is not allowed"),
        ({"name": ".part"}, "name: '.part' is not allowed"),
        ({"name": "a/b.tar"}, "name: 'a/b.tar' is not allowed"),
        ({"name": "hi.csv"}, "name: 'hi.csv' is not allowed"),
        ({"name": "हि.tar"}, "name: 'हि.tar' is not allowed"),
        ({"sha256": "../" * 20 + "abcd"}, "sha256: String should match"),
        ({"sha256": "A" * 64}, "sha256: String should match"),
        ({"bytes": 0}, "bytes: Input should be greater"),
        ({"offset": -1}, "offset: Input should be greater"),
    ],
)
def test_a_name_or_hash_is_no_path(
    client: TestClient, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    answer = client.post("/api/corpora", params=asked(b"data", **changes), content=b"data")
    assert said(answer, 422).startswith(line)
    assert not list((tmp_path / "jobs").rglob("*.tar"))


def test_uploads_have_a_limit_and_leave_the_disk_some_room(
    client: TestClient, service: WebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = asked(b"a" * 600)
    assert client.post("/api/corpora", params=query | {"offset": 0}, content=b"a" * 600).json()[
        "corpus"
    ]
    large = client.post("/api/corpora", params=asked(b"b" * 600))
    assert "may take 1e-06 GB in all (LORAJOB_UPLOADS_GB)" in said(large, 413)
    assert large.json()["error"]["code"] == DiskError.kind
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2e8 + 100))
    line = said(client.post("/api/corpora", params=asked(b"b" * 300)), 413)
    assert "the service's disk has 0.20 GB free, of which 0.2 GB stay" in line
    there = {"path": "/etc/hostname", "bytes": Path("/etc/hostname").stat().st_size}
    files = [
        there,
        there | {"bytes": 10**9},
        {"path": "a\0b", "bytes": 1},
        {"path": "a", "bytes": 1},
    ]
    found = client.post("/api/corpora/missing", json={"files": files})
    assert found.json() == {"missing": ["/etc/hostname", "a\0b", "a"]}


def failing() -> list[str]:
    raise ServiceError("no answer")


def test_uploads_that_are_being_sent_keep_their_room(
    client: TestClient, service: WebService
) -> None:
    def begun(data: bytes) -> Any:
        return client.post("/api/corpora", params=asked(data))

    assert begun(b"a" * 600).json() == begun(b"a" * 600).json() == {"received": 0, "corpus": None}
    assert "may take 1e-06 GB in all" in said(begun(b"b" * 600), 413)
    assert begun(b"b" * 400).json()["received"] == 0
    assert "may take 1e-06 GB in all" in said(begun(b"c"), 413)
    part = Uploads(service.settings).part(Upload("hi.tar", asked(b"a" * 600)["sha256"], 600))
    # An upload that was left keeps only the room of its bytes.
    left_at = time.time() - 7200
    os.utime(part, (left_at, left_at))
    assert begun(b"b" * 600).json()["received"] == 0


def test_a_corpus_that_is_asked_for_during_a_prune_stays(
    client: TestClient, service: WebService, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"a" * 50
    answer = client.post("/api/corpora", params=asked(data) | {"offset": 0}, content=data)
    path = Path(answer.json()["corpus"])
    old = time.time() - 100_000
    for it in (path, path.parent):
        os.utime(it, (old, old))

    def slow(settings: Settings) -> list[str]:
        assert client.post("/api/corpora", params=asked(data)).json()["corpus"] == str(path)
        return []

    monkeypatch.setattr("lorajob.tasks.uploads.recorded_ids", slow)
    assert Uploads(service.settings).drop_unused(Jobs(service.settings, redis)) == []
    assert path.read_bytes() == data


def test_a_corpus_that_a_job_is_submitted_with_during_a_prune_stays(
    service: WebService, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = service.settings.jobs / ".uploads" / ("a" * 64) / "hi.tar.gz"
    path.parent.mkdir(parents=True)
    packed(tmp_path).rename(path)
    old = time.time() - 100_000
    for it in (path, path.parent):
        os.utime(it, (old, old))
    jobs = Jobs(service.settings, redis)
    given = {"language": "hi", "corpus": str(path), "base_model": "demo/whisper-base"}

    def checked(settings: Settings) -> list[str]:
        jobs.check(jobs.resolve(build_spec(given)))  # and no record names it yet
        return []

    monkeypatch.setattr("lorajob.tasks.uploads.recorded_ids", checked)
    assert Uploads(service.settings).drop_unused(jobs) == [] and path.is_file()


def test_corpora_that_are_deleted_are_named_although_another_cannot_be(
    service: WebService, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [service.settings.jobs / ".uploads" / (it * 64) for it in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "hi.tar").write_bytes(b"x")
        for it in (folder / "hi.tar", folder):
            os.utime(it, (0, 0))
    locks = service.settings.jobs / ".uploads" / ".locks"
    (locks / folders[1].name).mkdir(parents=True)  # which no process can open
    assert Uploads(service.settings).drop_unused(Jobs(service.settings, redis)) == folders[:1]
    assert not folders[0].exists() and folders[1].exists()


def test_a_cancelled_write_is_not_repeated(
    service: WebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, uploads = Upload("hi.tar", "a" * 64, 1 << 22), Uploads(service.settings)
    began = asyncio.Event()

    async def stuck(do: Any, *given: Any) -> None:
        do(*given)
        if not began.is_set():
            began.set()
            await asyncio.Event().wait()

    class Body:
        async def stream(self) -> AsyncIterator[bytes]:
            yield b"x" * api_corpora.WRITE_BYTES

    async def cancel() -> None:
        request: Any = Body()
        task = asyncio.create_task(api_corpora._receive(request, uploads, upload, 1 << 22))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    uploads.part(upload).parent.mkdir(parents=True)
    monkeypatch.setattr("lorajob.server.web.api_corpora.asyncio.to_thread", stuck)
    asyncio.run(cancel())
    assert uploads.part(upload).stat().st_size == api_corpora.WRITE_BYTES


def test_prune_deletes_corpora_that_no_job_names_after_a_day(
    client: TestClient, service: WebService, redis: Redis
) -> None:
    def sent(data: bytes) -> Path:
        answer = client.post("/api/corpora", params=asked(data) | {"offset": 0}, content=data)
        return Path(answer.json()["corpus"])

    used, lost, unused, young = (sent(it * 50) for it in (b"a", b"b", b"c", b"d"))
    client.post("/api/corpora", params=asked(b"e" * 50) | {"offset": 0}, content=b"e")
    part = Uploads(service.settings).part(Upload("hi.tar", asked(b"e" * 50)["sha256"], 50))
    jobs = Jobs(service.settings, redis)
    record = job_record(service.settings.jobs, "hi-0000000a", corpus=str(used))
    Records(redis).create(record)
    folder = service.settings.jobs / "hi-0000000b"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps({"corpus": str(lost)}))
    (folder / "job.json").write_text("{}")
    old = time.time() - 100_000
    for path in (used, lost, unused, part):
        os.utime(path, (old, old))
        os.utime(path.parent, (old, old))
    pruned = prune_all(jobs, 3600, dry_run=True)
    assert pruned.jobs == [] and set(pruned.corpora) == {unused.parent, part.parent}
    assert unused.exists() and part.exists()
    failed = pytest.MonkeyPatch()
    failed.setattr("lorajob.tasks.uploads.recorded_ids", lambda _: failing())
    assert prune_all(jobs, 3600).notes == ["unused corpora are not deleted: no answer"]
    failed.undo()
    assert prune_all(jobs, 3600) == pruned
    assert used.exists() and lost.exists() and young.exists()
    assert not unused.parent.exists() and not part.parent.exists()
