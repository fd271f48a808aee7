"""Corpora of another machine are sent to a service: by Python, the commands and the REST API."""

import hashlib
import json
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from redis import Redis

import lorajob
from lorajob.cli import remote as cli_remote
from lorajob.cli.main import main
from lorajob.client import uploads as client_uploads
from lorajob.client.remote import RemoteClient
from lorajob.client.service import Client
from lorajob.client.web_api import WebApi
from lorajob.errors import ServiceError, UsageError
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.uploads import Upload, Uploads
from tests.support.corpora import write_corpus
from tests.support.remote_web import Web
from tests.support.service import wait_for
from tests.support.uploads import asked, packed


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


@pytest.mark.parametrize("option", ["--corpus", "--set"])
def test_a_folder_is_refused_with_a_command_that_makes_a_file_of_it(
    web: Web,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:
    folder = tmp_path / "my हिन्दी clips"
    folder.mkdir()
    write_corpus(folder / "manifest.csv")
    monkeypatch.setenv("LORAJOB_URL", web.url)
    monkeypatch.setenv("LORAJOB_API_KEY", "send")
    monkeypatch.chdir(tmp_path)
    start = "corpus=" if option == "--set" else ""
    given = ("submit", "--lang", "hi", "--base-model", "demo/whisper-base", option)
    assert main([*given, f"{start}{folder.name}"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "exists on this machine" in told
    command = told.split("pack it with `")[1].split("` and submit that file, which is sent")[0]
    subprocess.run(command, shell=True, check=True)
    packed_here = tmp_path / f"{folder.name}.tar.gz"
    apart(packed_here, monkeypatch)
    assert main([*given, f"{start}{packed_here.name}"]) == 0
    job = capsys.readouterr().out.strip()
    corpus = Client(Jobs(web.settings)).job(job).spec.corpus
    assert corpus.startswith(str(web.settings.jobs / ".uploads"))


def test_settings_of_the_command_line_that_name_corpora_are_sent_too() -> None:
    sets = [
        "seed=7",
        "gate.max_conversion_difference=.inf",
        "gate={minutes: .inf}",
        "gate={corpora: [{corpus: /g.tar}]}",
        "gate.corpora=[{corpus: /h.tar}]",
        "corpus=/a.tar",
        "more_corpora=[{corpus: /b.tar}]",
        "corpus",
    ]
    (spec,), more = client_uploads.with_sets(
        [{"language": "hi", "corpus": "/c.tar", "gate": {"check": False}}], {"sets": sets, "n": 1}
    )
    # JSON has no .inf: what names no corpus stays text.
    assert more == {"sets": [*sets[:3], "corpus"], "n": 1}
    assert spec == {
        "language": "hi",
        "corpus": "/a.tar",
        "gate": {"check": False, "corpora": [{"corpus": "/h.tar"}]},
        "more_corpora": [{"corpus": "/b.tar"}],
    }


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


def test_a_body_that_was_cut_off_is_kept(
    web: Web, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "mr.tar"
    corpus.write_bytes(os.urandom(3 << 20))
    data = corpus.read_bytes()
    query = asked(data) | {"name": "mr.tar"}
    part = Uploads(web.settings).part(Upload("mr.tar", query["sha256"], len(data)))
    place = urlsplit(web.url)
    with socket.create_connection((str(place.hostname), place.port or 0)) as cut:
        cut.sendall(
            f"POST /api/corpora?{urlencode(query | {'offset': 0})} HTTP/1.1\r\n"
            "Host: web\r\n"
            "Authorization: Bearer send\r\n"
            "Content-Type: application/octet-stream\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data[: 2 << 20]
        )
        wait_for(lambda: part.exists() and part.stat().st_size >= 1 << 20, 30)
    api, sent = WebApi(web.url, "send"), list[int]()
    real = api.send_data

    def send(path: str, piece: bytes, query: Any, seconds: float) -> Any:
        sent.append(query["offset"])
        return real(path, piece, query, seconds)

    monkeypatch.setattr(api, "send_data", send)
    assert Path(client_uploads.upload_corpus(api, corpus, print)).read_bytes() == data
    assert sent and min(sent) >= 1 << 20


def test_two_clients_may_send_the_same_corpus(
    web: Web, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = packed(tmp_path, "mr.tar.gz")
    monkeypatch.setattr(client_uploads, "PIECE_BYTES", 100)
    monkeypatch.setattr(client_uploads, "LONGEST_PAUSE", 0.01)
    api = WebApi(web.url, "send")
    with ThreadPoolExecutor() as pool:
        sent = [pool.submit(client_uploads.upload_corpus, api, corpus, print) for _ in range(2)]
        first, second = (Path(it.result()) for it in sent)
    assert first == second and first.read_bytes() == corpus.read_bytes()


def test_an_upload_that_grows_may_fail_often(
    web: Web, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = packed(tmp_path, "mr.tar.gz")
    monkeypatch.setattr(client_uploads, "PIECE_BYTES", corpus.stat().st_size // 30)
    pauses: list[float] = []
    monkeypatch.setattr("lorajob.client.uploads.time.sleep", pauses.append)
    real_post, real_send = WebApi.post, WebApi.send_data
    asks = 0

    def post(api: WebApi, *given: Any, **more: Any) -> Any:
        nonlocal asks
        asks += 1
        if asks == 1:
            raise ServiceError("away")
        return real_post(api, *given, **more)

    def lossy(api: WebApi, *given: Any) -> Any:
        real_send(api, *given)
        raise ServiceError("away")

    monkeypatch.setattr(WebApi, "post", post)
    monkeypatch.setattr(WebApi, "send_data", lossy)
    there = Path(client_uploads.upload_corpus(WebApi(web.url, "send"), corpus, print))
    assert there.read_bytes() == corpus.read_bytes()
    assert pauses[:2] == [1.0, 2.0] and set(pauses[2:]) == {1.0} and len(pauses) > 30


@dataclass
class Scripted:
    """A server that gives the next of some answers, and then its last one."""

    answers: list[tuple[int, str]]
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> "Scripted":
        own = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                own.asked.append(self.path)
                status, text = own.answers.pop(0) if len(own.answers) > 1 else own.answers[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST

            def log_message(self, *given: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


NOTHING = (200, '{"received": 0, "corpus": null}')


@pytest.mark.parametrize(
    ("status", "text", "line"),
    [
        (413, "<html>", "413; a proxy refuses bodies of this size, and must let through 32 MiB"),
        (401, '{"error": {"message": "no key", "code": null}}', "set LORAJOB_API_KEY"),
        (200, "<html>", "does not answer in JSON"),
    ],
)
def test_a_refusal_that_stays_ends_an_upload_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, text: str, line: str
) -> None:
    monkeypatch.setattr("lorajob.client.uploads.time.sleep", pytest.fail)
    corpus = packed(tmp_path, "mr.tar.gz")
    with Scripted([NOTHING, (status, text)]) as server:
        with pytest.raises(ServiceError, match=line):
            client_uploads.upload_corpus(WebApi(server.url), corpus, print)
        assert len(server.asked) == 2


def test_while_the_service_reads_the_whole_file_it_is_only_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("lorajob.client.uploads.time.sleep", pauses.append)
    busy = (429, '{"error": {"message": "is being sent by another request", "code": null}}')
    there = (200, '{"received": 9, "corpus": "/jobs/mr.tar.gz"}')
    with Scripted([NOTHING, (504, "<html>"), *[busy] * 30, there]) as server:
        corpus = packed(tmp_path, "mr.tar.gz")
        found = client_uploads.upload_corpus(WebApi(server.url), corpus, print)
    assert found == "/jobs/mr.tar.gz" and len(pauses) == 31
    assert sum("offset=" in it for it in server.asked) == 1


def test_an_older_service_takes_no_corpora_and_has_no_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = (404, '{"error": {"message": "/api/x does not exist", "code": null}}')
    spec = {"language": "mr", "corpus": str(packed(tmp_path, "mr.tar.gz"))}
    with Scripted([missing]) as server:
        assert client_uploads.with_uploads(WebApi(server.url), [spec], pytest.fail) == [spec]
        monkeypatch.setenv("LORAJOB_URL", server.url)
        cli_remote._tell_notes()
    assert capsys.readouterr().err == "" and len(server.asked) == 2


def test_the_name_of_a_link_counts_and_the_copy_of_the_service_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "train.parquet"
    link.symlink_to(packed(tmp_path, "mr.tar.gz").rename(tmp_path / "blob"))
    spec = {"language": "mr", "corpus": str(link)}
    said: list[str] = []
    with Scripted([(200, '{"missing": []}')]) as server:
        assert client_uploads.with_uploads(WebApi(server.url), [spec], said.append) == [spec]
    assert said == [f"{link}: the service's copy is used"]
    monkeypatch.setenv("HOME", str(tmp_path))
    with Scripted([(200, '{"received": 9, "corpus": "/jobs/train.parquet"}')]) as server:
        api = WebApi(server.url)
        assert client_uploads.upload_corpus(api, Path("~/train.parquet"), print)
        for name, line in (("away.tar", "away.tar does not exist"), ("", "is a folder; pack it")):
            (tmp_path / "folder.tar").mkdir(exist_ok=True)
            with pytest.raises(UsageError, match=line):
                client_uploads.upload_corpus(api, tmp_path / (name or "folder.tar"), print)
