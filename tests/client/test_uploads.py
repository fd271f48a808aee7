"""Corpora of another machine are sent to a service: by Python, the commands and the REST API."""

import hashlib
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from starlette.testclient import TestClient

import lorajob
from lorajob.cli.main import main
from lorajob.client import uploads as client_uploads
from lorajob.client.remote import RemoteClient
from lorajob.client.service import Client
from lorajob.client.web_api import WebApi
from lorajob.errors import DiskError, ServiceError, UsageError
from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import WebService, open_service
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.prune import prune
from lorajob.tasks.uploads import Upload, Uploads
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import job_record
from tests.support.corpora import write_corpus
from tests.support.remote_web import Web

SEND = {"Authorization": "Bearer send"}
OCTETS = {"Content-Type": "application/octet-stream"}


def packed(folder: Path, name: str = "cv हिन्दी.tar.gz") -> Path:
    """An archive of a small corpus, which the service does not have."""
    (inside := folder / "inside").mkdir()
    write_corpus(inside / "manifest.csv")
    with tarfile.open(folder / name, "w:gz") as tar:
        for path in sorted(inside.iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(inside)
    return folder / name


def apart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service and the client are on one machine here, so this file is hidden from the one."""
    real = WebApi.post

    def post(api: WebApi, to: str, body: Any = None, **more: Any) -> Any:
        if to == "/corpora/missing":
            return {"missing": [it["path"] for it in body["files"] if it["path"] == str(path)]}
        return real(api, to, body, **more)

    monkeypatch.setattr(WebApi, "post", post)


def test_submit_sends_a_corpus_that_only_this_machine_has(
    web: Web,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = packed(tmp_path)
    apart(corpus, monkeypatch)
    monkeypatch.setattr(client_uploads, "PIECE_BYTES", 1000)
    monkeypatch.setenv("LORAJOB_URL", web.url)
    monkeypatch.setenv("LORAJOB_API_KEY", "send")
    monkeypatch.chdir(tmp_path)
    given = ("submit", "--lang", "hi", "--base-model", "demo/whisper-base", "--corpus")
    assert main([*given, corpus.name]) == 0
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and f"lorajob: uploading {corpus.name}, 0.0 MB" in told.err
    digest = hashlib.sha256(corpus.read_bytes()).hexdigest()
    there = web.settings.jobs / ".uploads" / digest / "cv_.tar.gz"
    local = Client(Jobs(web.settings))
    assert local.job(told.out.strip()).spec.corpus == str(there)
    assert there.read_bytes() == corpus.read_bytes() and there.stat().st_mode & 0o077 == 0

    corpus.rename("hi.zip")
    assert main(["corpus", "upload", "hi.zip"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{there.with_name('hi.zip')}\n"
    assert main(["corpus", "upload", "hi.zip"]) == 0
    again = capsys.readouterr()
    assert again.out == told.out and "hi.zip is on the service already" in again.err
    assert main(["corpus", "upload", "hi.zip", "--lang", "hi"]) == 2
    assert "not a whole zip archive" in capsys.readouterr().err
    monkeypatch.delenv("LORAJOB_URL")
    assert main(["corpus", "upload", "hi.zip"]) == 2
    assert "LORAJOB_URL: is not set" in capsys.readouterr().err
    audit = (web.settings.home / "web" / "audit.jsonl").read_text("utf-8").splitlines()
    done = [json.loads(it) for it in audit if '"upload"' in it]
    assert [(it["who"], it["corpus"]) for it in done] == [
        ("ana", str(there)),
        ("ana", str(there.with_name("hi.zip"))),
    ]


def test_every_corpus_of_a_job_is_sent_once_and_others_stay(
    web: Web, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = packed(tmp_path, "cv-hi.tar.gz")
    apart(corpus, monkeypatch)
    client = lorajob.connect(web.url, key="send")
    assert isinstance(client, RemoteClient)
    said: list[str] = []
    place = str(tmp_path / "cv-{language}.tar.gz")
    spec: dict[str, object] = {
        "language": "Hindi",
        "corpus": place,
        "more_corpora": [{"corpus": place, "weight": 0.5}, {"corpus": "s3://b/a.tar.gz"}, 7],
        "test_corpus": str(tmp_path / "away.tar.gz"),
        "gate": {"corpora": [{"corpus": str(corpus), "language": "mr"}], "minutes": 1},
    }
    sent, untouched = client_uploads.with_uploads(
        client.api, [spec, {"language": "mr", "corpus": "/x"}], said.append
    )
    there = str(client.upload_corpus(corpus))
    assert sent == spec | {
        "corpus": there,
        "more_corpora": [{"corpus": there, "weight": 0.5}, {"corpus": "s3://b/a.tar.gz"}, 7],
        "gate": {"corpora": [{"corpus": there, "language": "mr"}], "minutes": 1},
    }
    assert untouched == {"language": "mr", "corpus": "/x"} and len(said) == 1
    with pytest.raises(UsageError, match="ben may only view"):
        lorajob.connect(web.url, key="see").submit("hi", corpus)
    table = write_corpus(tmp_path / "hi.csv")
    with pytest.raises(UsageError, match=r"hi.csv is not one of \.tar\.gz"):
        client.upload_corpus(table)


def test_an_upload_goes_on_after_the_server_was_away(
    web: Web, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = packed(tmp_path, "mr.tar.gz")
    client = lorajob.connect(web.url, key="send")
    assert isinstance(client, RemoteClient)
    monkeypatch.setattr(client_uploads, "PIECE_BYTES", 300)
    pauses: list[float] = []
    monkeypatch.setattr("lorajob.client.uploads.time.sleep", pauses.append)
    real, calls = WebApi.send_data, list[int]()

    def flaky(api: WebApi, path: str, data: bytes, query: Any, seconds: float) -> Any:
        calls.append(query["offset"])
        found = real(api, path, data, query, seconds)
        # The piece came, but its answer is lost.
        if len(calls) == 2:
            raise ServiceError("away")
        return found

    monkeypatch.setattr(WebApi, "send_data", flaky)
    there = Path(client.upload_corpus(corpus))
    assert there.read_bytes() == corpus.read_bytes() and pauses == [1.0]
    assert calls == list(range(0, corpus.stat().st_size, 300))


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


def asked(data: bytes, **changes: Any) -> dict[str, Any]:
    """The query of a request that sends some data."""
    digest = hashlib.sha256(data).hexdigest()
    return {"name": "hi.tar", "sha256": digest, "bytes": len(data)} | changes


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
    assert "more than the 200 bytes of it came" in said(send(50, data), 422)
    assert send(None).json()["received"] == 50
    uploads = Uploads(service.settings)
    with uploads.held(Upload("hi.tar", query["sha256"], 200)):
        assert "is being sent by another request" in said(send(50, data[50:]), 429)
    path = send(50, data[50:]).json()["corpus"]
    assert Path(path).read_bytes() == data
    assert send(None).json() == send(0, data).json() == {"received": 200, "corpus": path}
    other = b"x" * 200
    query = asked(other)
    assert "has another hash; the file changed" in said(send(0, data), 422)
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
    monkeypatch.setattr("lorajob.tasks.uploads.free_bytes", lambda _: 2e8 + 100)
    line = said(client.post("/api/corpora", params=asked(b"b" * 300)), 413)
    assert "the service's disk has 0.00 GB free" in line
    there = {"path": "/etc/hostname", "bytes": Path("/etc/hostname").stat().st_size}
    files = [
        there,
        there | {"bytes": 10**9},
        {"path": "a\0b", "bytes": 1},
        {"path": "a", "bytes": 1},
    ]
    found = client.post("/api/corpora/missing", json={"files": files})
    assert found.json() == {"missing": ["/etc/hostname", "a\0b", "a"]}


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
    assert prune(jobs, 3600) == []
    assert used.exists() and lost.exists() and young.exists()
    assert not unused.parent.exists() and not part.parent.exists()
