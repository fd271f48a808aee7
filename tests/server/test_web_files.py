"""Exports, curves and upkeep of jobs by the REST API, and what a client accepts of them."""

import asyncio
import errno
import gzip
import io
import json
import os
import tarfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from starlette.testclient import TestClient

from lorajob.client.remote_files import export_bundle, fetch_curves
from lorajob.errors import LorajobError, ServiceError, StageError, UsageError
from lorajob.job.jobdir import JobDir, hash_file, hash_files, write_json
from lorajob.server.web import exports
from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import WebService, open_service
from lorajob.server.web.streams import Tar, event
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import job_record
from tests.support.corpora import write_corpus
from tests.support.service import wait_for

JOB = "hi-0000000a"
SEE = {"Authorization": "Bearer see"}
SEND = {"Authorization": "Bearer send"}


@pytest.fixture
def web(redis: Redis, redis_server: Settings, tmp_path: Path) -> Iterator[WebService]:
    keys = {"submit_keys": SecretStr("ana=send"), "view_keys": SecretStr("ben=see")}
    places = {"home": tmp_path / "home", "artifacts": tmp_path / "jobs"}
    service = open_service(redis_server.model_copy(update=keys | places))
    Records(redis).create(job_record(service.settings.jobs, JOB, state="failed"))
    write_json(service.settings.jobs / JOB / "spec.json", {"language": "hi", "corpus": "/hi"})
    yield service
    service.close()


@pytest.fixture
def client(web: WebService) -> Iterator[TestClient]:
    with TestClient(create_web_app(web), headers=SEE) as client:
        yield client


def said(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def told(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream."""
    blocks = [it for it in text.split("\n\n") if it.startswith("event")]
    pairs = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    return [(it["event"], json.loads(it["data"])) for it in pairs]


def write_bundle(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights").write_bytes(b"weights" * 1000)
    write_json(folder / "bundle.json", {"files": hash_files(folder)})
    return folder


def test_a_viewer_exports_a_model_and_downloads_it(
    client: TestClient, web: WebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = web.folder / "exports"

    async def made(order: Any) -> AsyncGenerator[bytes | tuple[str, ...], None]:
        assert order.job == web.settings.jobs / JOB and order.license == "apache-2.0"
        yield event({"text": "adapter"}, "progress")
        # A second one is refused meanwhile, unless its key may do more.
        second = await asyncio.to_thread(client.get, f"/api/jobs/{JOB}/export")
        assert "try again later" in said(second, 429)
        monkeypatch.setattr(exports, "_made", broke)
        other = await asyncio.to_thread(client.get, f"/api/jobs/{JOB}/export", headers=SEND)
        assert told(other.text)[-1][0] == "error"
        write_bundle(order.target)
        yield ("a note",)

    async def broke(order: Any) -> AsyncGenerator[bytes | tuple[str, ...], None]:
        yield event({"text": "adapter"}, "progress")
        (order.target / "half").touch()
        raise StageError("train/adapter: damaged")

    monkeypatch.setattr(exports, "_made", made)
    asked = {"what": "adapter", "license": "Apache-2.0"}
    first, last = told(client.get(f"/api/jobs/{JOB}/export", params=asked).text)
    assert first == ("progress", {"text": "adapter"})
    assert last[0] == "done" and last[1]["notes"] == ["a note"]
    token = last[1]["export"]
    # The start of another server with this home deletes what ended servers left only.
    (left / "ended" / "token").mkdir(parents=True)
    with TestClient(create_web_app(open_service(web.settings), agents=False)):
        assert not (left / "ended").exists()
    (bundle,) = left.glob(f"*/{token}")
    assert last[1]["index_sha256"] == hash_file(bundle / "bundle.json")
    tar = client.get(f"/api/exports/{token}").content
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        assert sorted(opened.getnames()) == ["adapter/weights", "bundle.json"]
    # The end of a download may be lost, so the bundle stays a while.
    monkeypatch.setattr(exports, "SENT_SECONDS", 0.0)
    assert client.get(f"/api/exports/{token}").content == tar
    wait_for(lambda: not bundle.exists())
    assert "export the job again" in said(client.get(f"/api/exports/{token}"), 404)
    _, last = told(client.get(f"/api/jobs/{JOB}/export").text)
    assert last == ("error", {"message": "train/adapter: damaged", "code": "stage"})
    assert not list(left.glob("[!.]*/*"))
    audit = [json.loads(it) for it in web.audit.path.read_text("utf-8").splitlines()]
    done = [(it["what"], it["who"], it["job"]) for it in audit]
    assert done == [("export", who, JOB) for who in ("ben", "ana", "ben")]
    for wrong in ({"what": "onnx"}, {"license": "all rights"}, {"base_revision": "0"}):
        assert next(iter(wrong)) in said(client.get(f"/api/jobs/{JOB}/export", params=wrong), 422)
    assert client.get("/api/jobs/hi-00000000/export").status_code == 404


def test_the_oldest_bundles_go_except_one_that_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MOST_KEPT", 2)
    monkeypatch.setattr(exports, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(exports, "SENT_SECONDS", 0.3)
    kept = exports.Exports(tmp_path)

    def left() -> list[str]:
        return sorted(it.name for it in tmp_path.iterdir())

    async def keep() -> None:
        for name in "abcd":
            kept._keep(name, write_bundle(tmp_path / name))
            if name == "a":
                reading = kept.sending("a")
                reading.__enter__()
        assert left() == ["a", "d"]
        # It stays after its time until the download ends.
        kept._expire("a", 0)
        await asyncio.sleep(0.1)
        assert left() == ["a", "d"]
        cut, at = RuntimeError("cut"), time.monotonic()
        reading.__exit__(RuntimeError, cut, None)
        # Its client may go on.
        while left() != ["d"]:
            await asyncio.sleep(0.01)
        assert time.monotonic() - at >= 0.3

    asyncio.run(asyncio.wait_for(keep(), 120))
    kept.close()
    assert left() == []


def test_a_tar_file_is_sent_from_the_byte_that_is_asked_for(
    client: TestClient, web: WebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/jobs/{JOB}/files"
    whole = client.get(path)
    mark, size = whole.headers["ETag"], len(whole.content)
    assert int(whole.headers["Content-Length"]) == size
    for start in (0, 1, 511, 512, 700, size - 1):
        asked = {"Range": f"bytes={start}-", "If-Range": mark}
        rest = client.get(path, headers=asked)
        assert rest.status_code == 206 and rest.content == whole.content[start:]
        assert rest.headers["Content-Range"] == f"bytes {start}-{size - 1}/{size}"
    assert client.get(path, headers={"Range": f"bytes={size}-"}).status_code == 416
    for asked in ({"Range": "bytes=1-", "If-Range": '"old"'}, {"Range": "bytes=-5"}, {}):
        assert client.get(path, headers=asked).content == whole.content


def test_a_file_that_was_replaced_within_a_second_is_another_tar_file(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"

    def mark(data: bytes, at: int) -> str:
        (tmp_path / "new").write_bytes(data)
        os.utime(tmp_path / "new", ns=(at, at))
        (tmp_path / "new").replace(path)
        return Tar([("model.bin", path)]).mark

    first = mark(b"a", 5)
    path.rename(tmp_path / "kept")  # its inode is not used again
    assert len({first, mark(b"b", 5), mark(b"b", 6)}) == 3
    assert Tar([("model.bin", path)]).mark == Tar([("model.bin", path)]).mark


def test_texts_are_limited_and_those_of_killed_servers_are_deleted(
    web: WebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, young = (web.folder / "texts" / it for it in ("tmpold", "tmpyoung"))
    for folder in (left, young):
        folder.mkdir(parents=True)
        (folder / "body").write_text("x")
    for path in (left / "body", left):
        os.utime(path, (0, 0))
    monkeypatch.setattr("lorajob.corpora.texts.MOST_BYTES", 1000)
    with TestClient(create_web_app(web, agents=False), headers=SEND) as client:
        assert not left.exists() and young.exists()
        bomb = gzip.compress("एक वाक्य\n".encode() * 100)
        assert said(client.put("/api/texts/hi", content=bomb), 422).startswith("body: has over")
        assert client.put("/api/texts/hi", content=gzip.compress(b"one\n")).json()["lines"] == 1

        def full(*given: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("lorajob.storage.locations.Folder.upload", full)
        line = "the text of hi cannot be written: No space left on device"
        assert said(client.put("/api/texts/hi", content=b"one\n"), 507) == line


def test_settings_have_no_secrets_and_files_of_the_service(
    client: TestClient, web: WebService, tmp_path: Path
) -> None:
    spec: dict[str, object] = {"language": "hi", "corpus": "s3://bucket/hi.tsv?key=secret"}
    spec["evaluate"] = {"glossary": "https://ana:secret@host/terms.txt"}
    write_json(web.settings.jobs / JOB / "spec.json", spec)
    shown = client.get(f"/api/jobs/{JOB}/spec").text
    assert "https://***@host/terms.txt" in shown and "secret" not in shown
    corpus = str(write_corpus(tmp_path / "hi.csv"))
    for name, path, why in (
        ("text", "/nowhere/a.txt", "/nowhere/a.txt does not exist on the service's machines"),
        ("glossary", "/nowhere/{language}.txt", "/nowhere/hi.txt does not exist on the service's"),
        ("text", "a.txt", "'a.txt' is a relative path"),
    ):
        wanted = {"language": "hi", "corpus": corpus, "base_model": "demo/whisper-base"}
        body = {"spec": wanted | {"evaluate": {name: path}}}
        line = said(client.post("/api/jobs", json=body, headers=SEND), 422)
        assert line.startswith(f"evaluate.{name}: {why}")


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (b"{", 422, "body: is not JSON: "),
        (b"", 422, "body: Field required"),
        (b"[1]", 422, "body: Input should be a valid dictionary"),
        (b"\xff", 400, "body: cannot be read; is it JSON in UTF-8"),
        (b"[" * 100_000, 400, "body: cannot be read; is it JSON in UTF-8"),
        (b'{"add": ["\\ud800"]}', 422, "add.0: Input should be a valid string"),
    ],
)
def test_a_malformed_body_is_refused_in_one_line(
    client: TestClient, body: bytes, status: int, line: str
) -> None:
    headers = SEND | {"Content-Type": "application/json"}
    answer = client.patch("/api/glossaries/hi", content=body, headers=headers)
    assert said(answer, status).startswith(line)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_prune_that_fails_midway_is_audited_with_what_it_deleted(
    client: TestClient, web: WebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> list[str]:
        raise OSError(errno.EIO, "Input/output error", "/store")

    monkeypatch.setattr("lorajob.tasks.prune.drop_bases", full)
    pruned = client.post("/api/prune?older=0h", headers=SEND).json()
    note = "unused base models are not deleted: /store: Input/output error; prune again later"
    assert pruned == {"jobs": [JOB], "corpora": [], "notes": [note]}
    audit = [json.loads(it) for it in web.audit.path.read_text("utf-8").splitlines()]
    assert pruned.items() <= audit[-1].items() and audit[-1]["what"] == "prune"


def test_upkeep_needs_the_role_submit_and_is_in_the_audit_log(
    client: TestClient, web: WebService
) -> None:
    found = client.get(f"/api/jobs/{JOB}/verify").json()
    assert (found["ok"], found["id"], found["stages"]) == (True, JOB, {})
    pruned = {"jobs": [JOB], "corpora": list[str](), "notes": list[str]()}
    assert client.get("/api/prune?older=0h").json() == pruned
    for path in ("prune?older=0h", "rebuild"):
        assert "may only view" in said(client.post(f"/api/{path}"), 403)
    assert "such as 12h" in said(client.post("/api/prune?older=soon", headers=SEND), 422)
    assert client.post("/api/prune?older=30d", headers=SEND).json()["jobs"] == []
    assert client.post("/api/prune?older=0h", headers=SEND).json() == pruned
    nothing: list[str] = []
    restored = {"jobs": nothing, "problems": nothing, "foreign": nothing, "leased": nothing}
    assert client.post("/api/rebuild", headers=SEND).json() == restored
    audit = [json.loads(it) for it in web.audit.path.read_text("utf-8").splitlines()]
    assert [(it["what"], it["jobs"]) for it in audit] == [
        ("prune", []),
        ("prune", [JOB]),
        ("rebuild", []),
    ]


class Server:
    """An API that answers with these bodies, one after the other."""

    def __init__(self, *bodies: bytes) -> None:
        self.bodies = list(bodies)

    @contextmanager
    def open(self, *_: object, **__: object) -> Iterator["Answer"]:
        yield Answer(self.bodies.pop(0))


class Answer(io.BytesIO):
    """An answer without a length, so that it cannot be resumed."""

    status = 200
    headers = Message()


def server(*bodies: bytes) -> Any:
    return Server(*bodies)


def done(index: Path) -> bytes:
    sums = {"export": "t", "notes": [], "index_sha256": hash_file(index)}
    return event({"text": "merged"}, "progress") + event(sums, "done")


def test_a_client_refuses_a_bundle_that_is_not_as_it_was_made(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    index, weights = bundle / "bundle.json", bundle / "adapter" / "weights"
    files: dict[str, Path | bytes] = {"adapter/weights": weights, "bundle.json": index}

    def fetch(name: str, *bodies: bytes) -> None:
        (tmp_path / name / "in").mkdir(parents=True)
        export_bundle(server(*bodies), JOB, tmp_path / name / "in", {}, lambda _: None)

    def tar(**changed: bytes) -> bytes:
        return b"".join(Tar((files | changed).items()).data())

    fetch("whole", done(index), tar())
    assert hash_files(tmp_path / "whole" / "in") == hash_files(bundle)
    cases: dict[str, tuple[bytes, str]] = {
        "altered": (tar(**{"adapter/weights": b"w" * 7000}), "weights: is not as the server"),
        "more": (tar(**{"adapter/evil": b"x"}), "evil: is not as the server"),
        "index": (tar(**{"bundle.json": b"{}"}), "bundle.json: is damaged"),
        "outside": (tar(**{"../evil": b"x"}), "a file that is refused"),
        "cut": (tar()[:3000], "was cut off"),
    }
    for name, (body, why) in cases.items():
        with pytest.raises(StageError, match=why):
            fetch(name, done(index), body)
    assert not (tmp_path / "outside" / "evil").exists()
    for kind, error in (("usage", UsageError), ("stage", StageError), ("new", ServiceError)):
        with pytest.raises(error, match="the reason"):
            fetch(kind, event({"message": "the reason", "code": kind}, "error"))
    with pytest.raises(LorajobError, match="cut off"):
        fetch("lost", event({"text": "merged"}, "progress"))


def test_curves_of_a_running_stage_grow_in_place(
    client: TestClient, web: WebService, tmp_path: Path
) -> None:
    job = JobDir(web.settings.jobs / JOB)
    path = job.root / "attempts" / "train-1" / "tensorboard" / "events.1"

    def fetch() -> int:
        answer = client.get(f"/api/jobs/{JOB}/tensorboard")
        assert answer.status_code == 200
        return fetch_curves(server(answer.content), JOB, tmp_path / "shown")

    assert fetch() == 0
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    assert fetch() == 1
    with (tmp_path / "shown" / "train" / "events.1").open("rb") as opened:
        assert opened.read() == b"first"
        path.write_bytes(b"first, second")
        assert fetch() == 1
        assert opened.read() == b", second"
    # The next attempt has files of its own.
    newer = job.root / "attempts" / "train-2" / "tensorboard" / "events.2"
    newer.parent.mkdir(parents=True)
    newer.write_bytes(b"again")
    assert fetch() == 1
    assert [it.name for it in (tmp_path / "shown" / "train").iterdir()] == ["events.2"]
