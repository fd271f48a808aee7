"""Jobs of a service from Python: submit, follow, cancel. Redis is real; no worker runs."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from redis import Redis

import lorajob
from lorajob.client import job as job_module
from lorajob.client import progress as progress_module
from lorajob.client.requests import make_spec
from lorajob.client.service import Client
from lorajob.errors import CorpusError, JobNotFoundError, ServiceError, StageError, UsageError
from lorajob.job.jobdir import STAGES, JobDir
from lorajob.tasks.jobs import Jobs
from lorajob.worker.settings import Settings
from tests.support.command import url_of
from tests.support.records import claim, finish


@pytest.fixture
def client(redis: Redis, redis_server: Settings) -> Client:
    return Client(Jobs(redis_server))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "clips.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["audio", "text", "split"])
        for n, split in enumerate(["train", "train", "test"]):
            rows.writerow([f"{n}.wav", "पानी ठंडा है", split])
            soundfile.write(tmp_path / f"{n}.wav", np.zeros(16_000), 16_000)
    return path


@pytest.fixture
def queued(client: Client, corpus: Path) -> lorajob.Job:
    return client.submit(
        "Hindi", corpus, "demo/whisper-base", train={"epochs": 2}, sets=["train.rank=4"]
    )


def test_a_submitted_job_has_the_settings_that_were_asked_for(
    queued: lorajob.Job, client: Client, corpus: Path
) -> None:
    assert queued.id.startswith("hi-") and queued.state == "queued" and queued.language == "hi"
    spec = queued.spec
    assert (spec.corpus, spec.base_model) == (str(corpus), "demo/whisper-base")
    assert (spec.train.epochs, spec.train.rank) == (2, 4)
    assert [it.id for it in client.jobs()] == [queued.id]
    assert client.job(queued.id).record == queued.record
    assert repr(queued) == f"Job('{queued.id}')"


def test_a_job_is_found_by_what_it_was_called(client: Client, corpus: Path) -> None:
    tags = {"kind": "baseline"}
    job = client.submit("hi", corpus, "demo/whisper-base", name="first-try", tags=tags)
    assert job.record.name == "first-try" and job.record.tags == tags
    for called in (job.id, job.id[:-2], "first-try", "@last"):
        assert client.job(called).id == job.id
    with pytest.raises(UsageError, match="batch-1"):
        client.submit("hi", corpus, "demo/whisper-base", name="batch-1")


def test_the_interface_finds_the_service_of_the_environment(
    redis: Redis, redis_server: Settings, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_REDIS_URL", url_of(redis_server))
    monkeypatch.setenv("LORAJOB_ARTIFACTS", str(redis_server.artifacts))
    job = lorajob.submit("hi", corpus, "demo/whisper-base")
    monkeypatch.delenv("LORAJOB_REDIS_URL")
    named = lorajob.connect(url_of(redis_server), artifacts=str(redis_server.artifacts))
    assert named.job(job.id).spec.corpus == str(corpus)


@pytest.mark.parametrize(
    ("how", "error", "why"),
    [
        ({"language": "klingon"}, UsageError, "language: 'klingon' is unknown"),
        ({"corpus": "/nowhere.tar.gz"}, UsageError, "corpus: /nowhere.tar.gz does not exist"),
        ({"corpus": "~nosuch/x"}, UsageError, "corpus: '~nosuch/x' is not a valid path"),
        ({"corpus": None}, CorpusError, "corpus: none given"),
        ({"train": {"epoch": 2}}, UsageError, "train.epoch"),
        ({"preset": "best"}, UsageError, "preset: 'best' is unknown"),
        ({"preset": "quality"}, UsageError, "no better than default; leave it out"),
        ({"sets": "train.epochs=2"}, UsageError, "is one text; give a list"),
    ],
)
def test_a_wrong_request_is_one_line_and_queues_nothing(
    client: Client, corpus: Path, how: dict, error: type, why: str
) -> None:
    values = {"language": "hi", "corpus": corpus, "base_model": "demo/whisper-base"} | how
    with pytest.raises(error) as caught:
        client.submit(**values)
    assert why in str(caught.value) and "\n" not in str(caught.value)
    assert client.jobs() == []


def test_a_missing_job_and_a_missing_service_are_named(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobNotFoundError, match="hi-00000000"):
        client.job("hi-00000000")
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))
    with pytest.raises(ServiceError, match="run `lorajob up` or set LORAJOB_REDIS_URL"):
        lorajob.connect()
    with pytest.raises(UsageError, match=r"artifacts: 's3:///x' is not allowed|names no bucket"):
        lorajob.connect("redis://127.0.0.1:1", artifacts="s3:///x")


def test_an_interrupt_leaves_the_job_and_says_so(
    queued: lorajob.Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job_module.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        queued.wait()
    said = capsys.readouterr().err
    assert f"lorajob: {queued.id} continues; wait() follows it again, cancel() stops it" in said
    assert "waits for" in said
    assert queued.state == "queued"


def test_waiting_ends_with_the_job(
    queued: lorajob.Job, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TimeoutError, match="it continues"):
        queued.wait(progress=False, timeout=0)
    assert capsys.readouterr().err == ""
    finish(client._jobs.records, queued.record, *STAGES)
    assert queued.wait() is queued
    assert capsys.readouterr().err == f"{queued.id}: succeeded\n"


def test_jobs_are_listed_by_what_they_are(client: Client, corpus: Path) -> None:
    first = client.submit("hi", corpus, "demo/whisper-base", name="b", tags={"kind": "old"})
    second = client.submit("hi", corpus, "demo/whisper-base", name="a")
    second.cancel()

    def found(**how: Any) -> list[str]:
        return [it.id for it in client.jobs(**how)]

    assert found() == [second.id, first.id] and found(limit=1) == [second.id]
    assert found(sort="name") == [second.id, first.id] and found(sort="oldest")[0] == first.id
    assert found(tags=["kind=old"]) == found(states=["queued"]) == [first.id]
    assert found(lang="mr") == [] and found(since="1h", lang="hi") == found()
    assert first.waits_for == "a worker of the queue cpu; none is up" and second.waits_for is None
    assert first.over is False and second.over and second.user == client.user
    with pytest.raises(UsageError, match="--since: 'soon' is not allowed"):
        client.jobs(since="soon")


def test_a_job_is_followed_and_its_log_read_to_its_end(
    queued: lorajob.Job, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = JobDir(Path(queued.record.folder))
    folder.log_path("train").parent.mkdir()
    folder.log_path("train").write_text("step 1\n", "utf-8")

    def end(_: float) -> None:
        folder.log_path("train").write_text("step 1\nstep 2\n", "utf-8")
        finish(client._jobs.records, queued.record, *STAGES)

    assert list(queued.logs()) == ["==> train <==\n", "step 1\n"]
    assert list(queued.logs("convert")) == []
    monkeypatch.setattr(job_module.time, "sleep", end)
    assert list(queued.logs("train", follow=True)) == ["step 1\n", "step 2\n"]
    assert [it.state for it in queued.follow()] == ["succeeded"]


def test_a_job_that_has_no_model_is_not_promoted_and_is_deleted(
    queued: lorajob.Job, client: Client
) -> None:
    with pytest.raises(UsageError, match=f"`lorajob cancel {queued.id}` first"):
        queued.remove()
    finish(client._jobs.records, queued.record, *STAGES)
    assert client.board() == [] and client.promoted() == [] and client.notes() == []
    with pytest.raises(StageError, match="has no error rates yet"):
        client.compare(queued.id, queued.id)
    with pytest.raises(StageError, match=queued.id):
        queued.promote()
    with pytest.raises(UsageError, match="hi: no model is promoted"):
        client.rollback("hi")
    assert client.prune("1h") == [] and queued.verify().faults != []
    folder = Path(queued.record.folder)
    queued.remove()
    assert client.jobs() == [] and not folder.exists()


def test_a_batch_is_read_cancelled_and_retried(client: Client, corpus: Path) -> None:
    specs = [
        make_spec(
            client._jobs.settings, "hi", corpus, "demo/whisper-base", "default", [f"seed={n}"], {}
        )
        for n in range(2)
    ]
    made = client.submit_batch(specs)
    batch = client.batch(made.batch.id)
    assert [it.state for it in batch.jobs] == ["queued"] * 2 == [batch.state] * 2
    assert sorted(batch.cancel()) == sorted(it.id for it in batch.jobs)
    assert batch.state == "cancelled" and batch.user == client.user
    assert batch.retry() and batch.state == "queued"
    assert client.submit_batch(specs).batch.id == batch.id
    with pytest.raises(JobNotFoundError):
        client.batch("batch-00000000")


def test_a_cancelled_job_raises(queued: lorajob.Job) -> None:
    queued.cancel()
    with pytest.raises(lorajob.JobFailedError, match=f"{queued.id} was cancelled"):
        queued.wait()
    queued.retry()
    assert queued.state == "queued"


def test_a_line_on_a_terminal_has_a_clock_and_never_wraps(monkeypatch) -> None:
    from io import StringIO

    from lorajob.job.report import Progress

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "60")
    now = [0.0]
    stream = Terminal()
    line = progress_module.ProgressLine("first", stream, clock=lambda: now[0])
    line.show("train", None)
    now[0] = 12.0
    line.tick()
    line.show("train", Progress(step=5, total=20, loss=2.125, eta_seconds=120), 75.0)
    line.end("succeeded")
    frames = stream.getvalue().split("\r")[1:]
    begun = f"first: 2/4 train  {'░' * 20} 0 %"
    assert frames[:2] == [f"{begun}  0 s so far", f"{begun}  12 s so far"]
    assert frames[2].rstrip() == f"first: 2/4 train  {'█' * 5}{'░' * 15} 25 %  5/20"
    assert frames[3].rstrip() == "first: succeeded" and len(frames[3]) >= len(frames[2].rstrip())
    stream.truncate(0)
    monkeypatch.setenv("COLUMNS", "99")
    line.show("train", Progress(step=5, total=20, loss=2.125, eta_seconds=120), 75.0)
    assert stream.getvalue().endswith("  5/20  loss 2.125  2 min left  75 s so far")


def test_a_stage_that_runs_is_shown(queued: lorajob.Job, client: Client) -> None:
    from io import StringIO

    from lorajob.job.report import Progress

    records = client._jobs.records
    claim(records, queued.record)
    stream = StringIO()
    line = progress_module.ProgressLine(queued.id, stream)
    queued._show(queued.record, line)
    line.show("train", Progress(step=5, total=20, loss=2.125, eta_seconds=120))
    line.show("train", Progress(step=5, total=20))
    assert stream.getvalue().splitlines() == [
        f"{queued.id}: 1/4 preprocess  {'░' * 20} 0 %",
        f"{queued.id}: 2/4 train  {'█' * 5}{'░' * 15} 25 %  5/20  loss 2.125  2 min left",
    ]
