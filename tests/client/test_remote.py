"""The jobs of a service over HTTP: Python and the command line, against a real `lorajob web`."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

import lorajob
from lorajob.cli.main import main
from lorajob.client.remote import RemoteClient
from lorajob.client.service import Client
from lorajob.errors import JobNotFoundError, ServiceError, UsageError
from lorajob.job.jobdir import JobDir
from lorajob.tasks.jobs import Jobs
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support import command
from tests.support.command import finished, job_record, url_of
from tests.support.corpora import write_corpus
from tests.support.evaluated import make_evaluated_job
from tests.support.tiny import SENTENCES


@dataclass(frozen=True)
class Web:
    url: str
    settings: Settings


@pytest.fixture(scope="module")
def web(redis_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A `lorajob web` in a process of its own."""
    home = tmp_path_factory.mktemp("web-home")
    settings = redis_server.model_copy(update={"home": home, "artifacts": home / "jobs"})
    env = command.environment(
        home=home,
        artifacts=home / "jobs",
        redis_url=url_of(redis_server),
        submit_keys="ana=send",
        view_keys="ben=see",
    )
    process = command.start("web", "--port", "0", env=env, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("Pages at http://127.0.0.1:")
        yield Web(line.split()[2].rstrip(";"), settings)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def test_over_http_a_job_is_the_same_as_beside_the_service(
    web: Web,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = write_corpus(tmp_path / "clips.csv")
    client, local = lorajob.connect(web.url, key="send"), Client(Jobs(web.settings))
    assert isinstance(client, RemoteClient)
    job = client.submit("hi", corpus, "demo/whisper-base", name="first", sets=["train.epochs=2"])
    own = local.job(job.id)
    assert own.record.user == "ana" and own.spec == job.spec and job.spec.train.epochs == 2
    assert job.state == own.state == "queued" and job.record.id == client.job("first").id
    assert [it.id for it in client.jobs()] == [it.id for it in local.jobs()] == [job.id]
    job.cancel()
    assert own.state == "cancelled"
    with pytest.raises(lorajob.JobFailedError, match=f"{job.id} was cancelled"):
        job.wait(progress=False)
    job.retry()
    assert own.state == "queued"
    with pytest.raises(UsageError, match="relative path"):
        client.submit("hi", "clips.csv")
    with pytest.raises(JobNotFoundError):
        client.job("hi-00000000")
    with pytest.raises(ServiceError, match="Incorrect API key; set LORAJOB_API_KEY"):
        lorajob.connect(web.url, key="other")
    with pytest.raises(UsageError, match="ben may only view"):
        lorajob.connect(web.url, key="see").job(job.id).cancel()
    with pytest.raises(ServiceError, match="is unavailable"):
        lorajob.connect("http://127.0.0.1:1")

    monkeypatch.setenv("LORAJOB_URL", web.url)
    monkeypatch.setenv("LORAJOB_API_KEY", "send")

    def run(*args: str) -> str:
        assert main(args) == 0
        return capsys.readouterr().out

    given = ("submit", "--lang", "hi", "--corpus", str(corpus), "--base-model", "demo/whisper-base")
    made = run(*given, "--tag", "kind=a").strip()
    assert local.job(made).record.tags == {"kind": "a"}
    listed = json.loads(run("status", "--json"))
    assert [it["id"] for it in listed] == [made, job.id]
    assert json.loads(run("status", "first", "--json"))["id"] == job.id
    assert made in run("status", "--tag", "kind=a") and "no gpu worker" not in run("status", made)
    assert run("cancel", "first") == "first is stopping\n"
    assert run("retry", "first") == "first is queued again\n"
    assert main(["verify", "first"]) == 2
    assert "verify: works beside the service only" in capsys.readouterr().err
    assert main(["cancel", "नया"]) == 2
    assert "no job is called 'नया'" in capsys.readouterr().err


def test_over_http_results_and_logs_are_those_of_the_files(
    web: Web,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = [text.split()[0] for text in SENTENCES]
    ids = ("hi-0000000a", "hi-0000000b")
    for name, tuned in zip(ids, (wrong, list(SENTENCES)), strict=True):
        folder = make_evaluated_job(
            web.settings.jobs / name, {"base": wrong, "delivered": tuned, "tuned": tuned}
        )
        folder.report_path.write_text("<p>drawn", "utf-8")
        stages = finished("preprocess", "train", "evaluate")
        record = job_record(web.settings.jobs, name, state="failed", stages=stages)
        Records(redis).create(record)
    log = JobDir(web.settings.jobs / ids[0]).log_path("train")
    log.parent.mkdir()
    log.write_text("पहली\nlast", "utf-8")
    client, local = lorajob.connect(web.url, key="see"), Client(Jobs(web.settings))
    far, near = [[it.job(name) for name in ids] for it in (client, local)]
    assert far[0].metrics == near[0].metrics and far[1].scores == near[1].scores
    assert far[0].utterances().equals(near[0].utterances())
    assert far[0].report.read_text("utf-8") == "<p>drawn"
    assert far[0].compare(far[1]).as_json() == near[0].compare(near[1]).as_json()

    monkeypatch.setenv("LORAJOB_URL", web.url)
    monkeypatch.setenv("LORAJOB_API_KEY", "see")
    monkeypatch.chdir(tmp_path)
    for follow in ((), ("-f",)):
        assert main(["logs", ids[0], *follow]) == 0
        assert capsys.readouterr().out == "==> train <==\nपहली\nlast"
    assert main(["report", ids[0]]) == 0
    assert (tmp_path / f"{ids[0]}.html").read_text("utf-8") == "<p>drawn"
    assert main(["compare", *ids, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert said == near[0].compare(near[1]).as_json()
