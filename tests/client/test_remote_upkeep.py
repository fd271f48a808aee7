"""Damaged jobs, notes, twins and the disk of a service over HTTP, against a real `lorajob web`."""

import gzip
import json
from pathlib import Path

import pytest
from redis import Redis

import lorajob
from lorajob.cli.main import main
from lorajob.client.remote import RemoteClient
from lorajob.client.service import Client
from lorajob.client.web_api import LONG_SECONDS
from lorajob.errors import LorajobError, ServiceError, UsageError
from lorajob.job.jobdir import write_json
from lorajob.spec import build_spec
from lorajob.tasks.jobs import Jobs
from lorajob.worker.records.records import Records
from tests.support.command import job_record
from tests.support.corpora import write_corpus
from tests.support.remote_web import Web

OLD, BROKEN, BUSY, OTHER = "hi-0000000a", "hi-0000000b", "hi-0000000c", "hi-0000000d"


@pytest.fixture
def remote(web: Web, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The commands use this service."""
    monkeypatch.setenv("LORAJOB_URL", web.url)
    monkeypatch.setenv("LORAJOB_API_KEY", "send")
    return web


def test_over_http_rm_deletes_damaged_jobs_and_all_or_none(
    remote: Web, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    records, jobs = Records(redis), remote.settings.jobs
    for name, user in ((OLD, "ana"), (BROKEN, "ana"), (BUSY, "ana"), (OTHER, "ben")):
        state = "queued" if name == BUSY else "failed"
        record = job_record(jobs, name, state=state, user=user)
        records.create(record)
        write_json(jobs / name / "job.json", record.model_dump(mode="json"))
        write_json(jobs / name / "spec.json", {"language": "hi", "corpus": "c"})
    redis.hset(f"lorajob:job:{BROKEN}", "created_at", "not a number")
    records.set_aside(BROKEN, "created_at: damaged")

    def run(*args: str, code: int = 0) -> tuple[str, str]:
        assert main(args) == code
        told = capsys.readouterr()
        return told.out, told.err

    assert f"`lorajob rm --yes {BROKEN}` deletes both" in run("rm", OLD, BROKEN, code=2)[1]
    assert f"`lorajob cancel {BUSY}` first" in run("rm", "--yes", OLD, BUSY, code=2)[1]
    assert f"{OTHER} belongs to ben" in run("rm", OLD, OTHER, code=2)[1]
    assert "is a batch" in run("rm", OLD, "batch-1a2b3c4d", code=2)[1]
    assert set(records.ids()) >= {OLD, BUSY, OTHER} and (jobs / BROKEN).exists()
    assert f"{BROKEN} is set aside" in run("status")[1]
    assert f"{BROKEN} is set aside" in run("status", "--json")[1]
    out, _ = run("rm", "--yes", OLD, BROKEN, OLD)
    assert out == f"{OLD}\n{BROKEN}\n"
    assert set(records.ids()) == {BUSY, OTHER}
    assert not (jobs / OLD).exists() and not (jobs / BROKEN).exists()
    assert run("rm", "--anyone", OTHER)[0] == f"{OTHER}\n"
    assert "set aside" not in run("status")[1]


def test_over_http_notes_twins_and_users_are_those_of_the_service(
    remote: Web, tmp_path: Path
) -> None:
    client, local = lorajob.connect(remote.url, key="send"), Client(Jobs(remote.settings))
    assert client.notes() == local.notes() and client.user == "ana"
    corpus = str(write_corpus(tmp_path / "hi.csv"))
    given = {"language": "hi", "corpus": corpus, "base_model": "demo/whisper-base"}
    first, other = build_spec(given), build_spec(given | {"seed": 7})
    job = client.submit_spec(first)
    again = client.submit_spec(first)
    assert client.twin(job, other) is None
    # The answer to the submission named it, so the job's text is not resolved again.
    text = build_spec(given | {"evaluate": {"text": str(tmp_path / "away.txt")}})
    for asked, wanted in ((client, text), (lorajob.connect(remote.url, key="send"), first)):
        twin = asked.twin(again, wanted)
        assert twin is not None and twin.id == job.id


def test_over_http_a_submission_may_take_long(
    remote: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = lorajob.connect(remote.url, key="send")
    assert isinstance(client, RemoteClient)
    given: list[tuple[str, str, float]] = []

    def asked(method: str, path: str, *_: object, seconds: float = 0.0, **more: object) -> None:
        given.append((method, path, seconds))
        raise ServiceError("enough")

    monkeypatch.setattr(client.api, "open", asked)
    spec = build_spec({"language": "hi", "corpus": "/a.tar"})
    for submit in (lambda: client.submit_spec(spec), lambda: client.submit_batch([spec])):
        with pytest.raises(ServiceError, match="enough"):
            submit()
    posts = [("POST", path, LONG_SECONDS) for path in ("/jobs", "/batches")]
    assert [it for it in given if it[0] == "POST"] == posts


def test_over_http_the_disk_is_that_of_the_service(
    remote: Web, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (remote.settings.jobs / OLD).mkdir(parents=True)
    (remote.settings.jobs / OLD / "weights").write_bytes(b"w" * 2_000_000)
    assert main(["status", "--disk", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (jobs,) = [it for it in found["items"] if it["what"] == "jobs"]
    assert jobs["path"] == str(remote.settings.jobs) and jobs["bytes"] >= 2_000_000
    monkeypatch.setenv("LORAJOB_API_KEY", "see")
    assert main(["status", "--disk"]) == 0
    assert f"free on the disk of {remote.settings.home}" in capsys.readouterr().out
    assert main(["status", "--disk", OLD]) == 2
    assert "for the machine of the service" in capsys.readouterr().err


def test_over_http_only_a_submit_key_deletes(remote: Web) -> None:
    job = lorajob.connect(remote.url, key="see").job_of(BUSY)
    with pytest.raises(UsageError, match="ben may only view"):
        job.remove(damaged=True)


def test_over_http_the_text_of_a_language_is_that_of_the_service(
    remote: Web,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client, local = lorajob.connect(remote.url, key="send"), Client(Jobs(remote.settings))
    first, other = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    first.write_text("एक वाक्य\n...\n", "utf-8")
    other.write_bytes(gzip.compress("दूसरा वाक्य".encode()))
    made = client.texts.set("Hindi", [str(first), str(other)])
    assert made.lines == 2 and client.texts.list() == local.texts.list() == [made]
    assert local.texts.set("hi", [str(first), str(other)]).sha256 == made.sha256
    assert main(["lm", "hi", str(first)]) == 0
    assert capsys.readouterr().out == "hi: 1 line, 8 characters\n"
    for wrong, line in (
        ([str(tmp_path / "away")], "FILE: "),
        ([str(_written(tmp_path / "c.txt", b"...\n"))], "the text has no words"),
        ([str(_written(tmp_path / "d.txt", b"\xff\n"))], "line 1 is not UTF-8"),
    ):
        with pytest.raises(LorajobError, match=line):
            client.texts.set("hi", wrong)
    monkeypatch.setenv("LORAJOB_API_KEY", "see")
    assert main(["lm", "list"]) == 0 and "hi" in capsys.readouterr().out
    described = remote.settings.jobs / ".texts" / "hi.json"
    whole = described.read_text("utf-8")
    described.write_text("[", "utf-8")
    assert main(["lm", "list"]) == 0
    shown = capsys.readouterr()
    assert "hi        damaged" in shown.out and "`lorajob lm remove hi`" in shown.err
    described.write_text(whole, "utf-8")
    with pytest.raises(UsageError, match="ben may only view"):
        lorajob.connect(remote.url, key="see").texts.remove("hi")
    assert client.texts.remove("hi") == "hi" and local.texts.list() == []
    with pytest.raises(UsageError, match="hi has no text"):
        client.texts.remove("hi")


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
