"""The jobs of a service over HTTP: Python and the command line, against a real `lorajob web`."""

import inspect
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from redis import Redis

import lorajob
from lorajob.book.terms import read_glossary
from lorajob.cli.main import COMMANDS, cli, main
from lorajob.cli.remote import BOTH, CALLBACKS, LOCAL, NEITHER, SAME
from lorajob.client.remote import RemoteClient, WebApi, follow_log
from lorajob.client.service import Client
from lorajob.errors import JobNotFoundError, ServiceError, UsageError
from lorajob.job.jobdir import JobDir, write_json
from lorajob.spec import build_spec
from lorajob.tasks.jobs import Jobs
from lorajob.worker.records.records import Records
from tests.support.command import finished, job_record, url_of
from tests.support.corpora import write_corpus
from tests.support.evaluated import make_evaluated_job
from tests.support.remote_web import Web
from tests.support.tiny import SENTENCES


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_command_takes_the_same_options_over_http(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    given = {it.name: None for it in command.params if it.expose_value}
    inspect.signature(CALLBACKS[name]).bind(**given)


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
    with pytest.raises(ServiceError, match="does not answer in JSON"):
        client.api.get(f"/jobs/{job.id}/logs")

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
    assert run("verify", "first") == "no stage has finished\n"
    absent = ("submit", "--lang", "hi", "--base-model", "demo/whisper-base", "--corpus")
    for place in ("/nowhere/hi.csv", "clips.csv"):
        monkeypatch.chdir(tmp_path)
        assert main([*absent, place]) == 2
        said = capsys.readouterr().err
        where = "does not exist on the service's machines" if place[0] == "/" else "relative path"
        assert where in said and ("exists on this machine" in said) == (place == "clips.csv")
    assert main(["cancel", "नया"]) == 2
    assert "no job is called 'नया'" in capsys.readouterr().err


def test_over_http_a_batch_file_of_this_machine_is_submitted(
    web: Web,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpora = [write_corpus(tmp_path / f"{code}.csv") for code in ("hi", "mr")]
    file = tmp_path / "batch.yaml"
    shutil.rmtree(web.settings.jobs, ignore_errors=True)  # of other tests
    usual = f'corpus: "{tmp_path}/{{language}}.csv", base_model: demo/whisper-base, preset: fast'
    each = "hi: {train: {epochs: 5}}, mr: {preset: default}, ta: "
    file.write_text(f"{{defaults: {{{usual}}}, languages: {{{each}}}}}", "utf-8")
    monkeypatch.setenv("LORAJOB_URL", web.url)
    monkeypatch.setenv("LORAJOB_API_KEY", "send")
    monkeypatch.chdir(tmp_path)
    local, default = Client(Jobs(web.settings)), build_spec({"language": "mr", "corpus": ""})

    def run(*args: str, code: int = 0) -> tuple[str, str]:
        assert main(args) == code
        told = capsys.readouterr()
        return told.out.strip(), told.err

    batch, said = run("batch", "batch.yaml", "--set", "seed=7", "--tag", "kind=a")
    jobs = {it.language: it for it in local.batch(batch).jobs}
    assert f"{jobs['ta'].id} is rejected: corpus: {tmp_path}/ta.csv does not exist" in said
    chosen = {code: (it.spec.train.epochs, it.spec.seed) for code, it in jobs.items()}
    assert chosen["hi"] == (5, 7) and jobs["hi"].spec.corpus == str(corpora[0])
    assert jobs["mr"].spec.train == default.train and jobs["hi"].record.tags == {"kind": "a"}
    again, said = run("batch", "batch.yaml", "--set", "seed=7", "--priority", "high")
    assert again == batch and "keeps its priority normal; nothing is queued twice" in said
    other, _ = run("batch", "batch.yaml", "--set", "seed=7", "--anew")
    assert other != batch
    assert run("status", batch)[0].startswith(f"{batch}: queued; 3 jobs: 2 queued, 1 rejected")
    assert run("cancel", batch)[0] == f"2 of the jobs of {batch} are stopping"
    assert run("watch", batch, code=1)[0].startswith(f"{batch}: ")
    assert run("retry", batch)[0].startswith("3 of the jobs")
    client = lorajob.connect(web.url, key="send")
    assert client.batch(batch).state == local.batch(batch).state
    assert [it.id for it in client.batch(batch).jobs] == [it.id for it in local.batch(batch).jobs]
    near = [it.spec for it in local.batch(other).jobs if it.language != "ta"]
    assert client.submit_batch(near).batch == local.submit_batch(near).batch
    file.write_text("languages: {hi: {corpus: hi.csv}}", "utf-8")
    _, said = run("batch", "batch.yaml", code=2)
    assert "is a relative path" in said and "exists on this machine" in said
    assert "--lang: an empty name" in run("submit", "--lang", "hi,", code=2)[1]

    # Old jobs are listed by a viewer, and deleted by who may submit.
    run("cancel", batch)
    assert client.prune("30d") == []
    monkeypatch.setenv("LORAJOB_API_KEY", "see")
    names, said = run("prune", "--older", "0h", "--dry-run")
    old = {it.id for it in local.batch(batch).jobs}
    assert old <= set(names.split()) and "would be deleted" in said
    assert "ben may only view" in run("prune", "--older", "0h", code=2)[1]
    monkeypatch.setenv("LORAJOB_API_KEY", "send")
    assert "--older: 'x' is not allowed" in run("prune", "--older", "x", code=2)[1]
    assert run("prune", "--older", "0h")[0] == names
    assert run("rebuild")[1] == "lorajob: no job is missing in Redis\n"
    alive = [it for it in local.batch(other).jobs if it.state == "queued"]
    redis.delete(f"lorajob:job:{alive[0].id}")
    assert run("rebuild")[0] == alive[0].id
    assert "ended more than" not in said and client.workers("cpu") == 0


def test_every_command_works_over_http_or_is_about_this_machine() -> None:
    known = (*LOCAL, *NEITHER, *BOTH, *SAME, *CALLBACKS)
    assert sorted(known) == sorted(COMMANDS)


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
    assert main(["report", ids[0], "--output", str(tmp_path / "none" / "a.html")]) == 1
    said = capsys.readouterr().err
    assert "No such file" in said and "unavailable" not in said
    assert main(["promote", ids[0]]) == 2
    assert "ben may only view" in capsys.readouterr().err
    assert far[0].verify() == near[0].verify() and far[0].verify().faults
    assert main(["verify", ids[0], "--json"]) == 1
    own = json.loads(json.dumps(near[0].verify().as_json()))
    assert json.loads(capsys.readouterr().out) == own
    assert client.promoted() == local.promoted() == [] and client.board() == local.board() == []
    assert main(["transcribe", ids[0], str(log)]) == 1
    assert f"{ids[0]}: has no model yet" in capsys.readouterr().err
    assert main(["watch", ids[0]]) == 1
    assert f"{ids[0]} failed" in capsys.readouterr().err
    assert main(["report", ids[0]]) == 0
    assert (tmp_path / f"{ids[0]}.html").read_text("utf-8") == "<p>drawn"
    assert main(["compare", *ids, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert said == near[0].compare(near[1]).as_json()
    assert main(["compare", *ids]) == 0
    row = near[0].compare(near[1]).rows[0]
    rate, (low, high) = row.scores.wer, row.interval
    assert f"{ids[0]}  WER {rate:.1f} % ({low:.1f} to {high:.1f})" in capsys.readouterr().out


@pytest.mark.slow
def test_over_http_a_model_is_exported_to_a_folder_of_this_machine(
    web: Web,
    redis: Redis,
    tiny_whisper: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.support.finished import make_finished_job

    name, jobs = "hi-0000000c", web.settings.jobs
    made = make_finished_job(jobs / name, tiny_whisper, "convert.compute_types=[float32]")
    stages = finished("preprocess", "train", "evaluate", "convert")
    Records(redis).create(job_record(jobs, name, state="succeeded", stages=stages))
    monkeypatch.setenv("LORAJOB_URL", web.url)
    monkeypatch.setenv("LORAJOB_API_KEY", "see")
    monkeypatch.chdir(tmp_path)
    export = ("export", name, "out", "--what", "adapter,ctranslate2")
    assert main(export) == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'out'}\n"
    for line in ("adapter", "downloading", "writing out", "the card states no licence"):
        assert f"lorajob: {line}" in told.err
    index = json.loads((tmp_path / "out" / "bundle.json").read_text("utf-8"))
    assert index["forms"] == ["adapter", "ctranslate2"] and index["job"] == name
    weights = "ctranslate2/float32/model.bin"
    own = (made.stage_dir("convert") / "model" / "model.bin").read_bytes()
    assert (tmp_path / "out" / weights).read_bytes() == own
    assert {it.name for it in tmp_path.iterdir()} == {"out"}
    assert main(export) == 2 and "out exists; --force replaces it" in capsys.readouterr().err
    assert main([*export[:2], "other", "--license", "all rights"]) == 2
    assert "not an identifier of a licence" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()

    curves = made.stage_dir("train") / "tensorboard"
    curves.mkdir()
    (curves / "events.1").write_bytes(b"curve")
    seen: list[str] = []

    def look(shown: Path, *_: object) -> int:
        seen.extend(f"{it.parent.relative_to(shown)} {it.read_text()}" for it in shown.rglob("ev*"))
        return 0

    monkeypatch.setattr("lorajob.cli.tensorboard.show_runs", look)
    assert main(["tensorboard", name]) == 0 and seen == [f"{name}/train curve"]
    assert main(["tensorboard"]) == 0


def test_a_glossary_is_the_same_over_http_and_beside_the_service(
    web: Web,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = "hi-0000000c"
    record = job_record(web.settings.jobs, job, state="failed")
    Records(redis).create(record)
    write_json(web.settings.jobs / job / "job.json", record.model_dump(mode="json"))
    client, local = lorajob.connect(web.url, key="send"), Client(Jobs(web.settings))
    made = client.glossaries.add("Hindi", ["Nairobi", "DGX Spark\tdee jee|डी जी", "#metoo"])
    assert (made.name, made.added, made.terms) == ("hi", 3, 3)
    assert client.glossaries.get("hi") == local.glossaries.get("Hindi")
    assert client.glossaries.get("hi").terms[1].sounds == ("dee jee", "डी जी")
    local.glossaries.add(job, ["Basel"])
    assert client.glossaries.list() == local.glossaries.list()
    assert [(it.name, it.terms) for it in client.glossaries.list()] == [("hi", 3), (job, 1)]
    many = read_glossary("".join(f"Ortsname {it} im Tal\n" for it in range(2000)))
    assert client.glossaries.add("de", many).added == 2000
    for kept in (client.glossaries, local.glossaries):
        with pytest.raises(UsageError, match="'Bern' is not in the glossary"):
            kept.remove("hi", ["Nairobi", "Bern"])
        with pytest.raises(UsageError, match="term 2: the control character U\\+0007"):
            kept.add("hi", ["Bern", "a\7b"])
        with pytest.raises(UsageError, match="terms: 'Bern' is one text"):
            kept.add("hi", "Bern")
    with pytest.raises(UsageError, match="ben may only view"):
        lorajob.connect(web.url, key="see").glossaries.remove_all("hi")
    assert client.glossaries.remove_all(job).removed == 1

    terms = tmp_path / "terms.txt"
    terms.write_text("Basel\nNairobi\tnairobee\n", "utf-8")
    lines = {
        ("add", "hi", str(terms)): "hi: 1 new, 1 with more sounds, 4 terms in all",
        ("list", "hi"): "Nairobi\tnairobee\nDGX Spark\tdee jee|डी जी\n\\#metoo\nBasel",
        ("list",): "NAME  OF        TERMS\nde    language  2,000\nhi    language      4",
        ("remove", "hi", "Basel", "#metoo"): "hi: 2 removed, 2 terms in all",
        ("remove", "de", "--all"): "de: 2,000 removed, 0 terms in all",
    }
    wrong = {
        ("list", "xx"): "LANG_OR_JOB: 'xx' is neither a language nor a job",
        ("remove", "hi"): "TERM: name the terms to remove, or give --all",
        ("remove", "de", "--all"): "de: has no glossary",
        ("add", "hi", "away.txt"): "FILE: 'away.txt' does not exist",
        ("add", "hi", str(tmp_path)): "is a folder; give a text file",
    }
    for url in (web.url, None):
        for name, value in _reached(web, url).items():
            monkeypatch.setenv(name, value)
        for given, line in lines.items():
            assert main(["glossary", *given]) == 0
            assert capsys.readouterr().out.rstrip() == line
        for given, line in wrong.items():
            assert main(["glossary", *given]) == 2
            said = capsys.readouterr().err
            assert line in said and said.count("\n") == 1
        assert main(["glossary", "list", "--json"]) == 0
        row = {"name": "hi", "of": "language", "terms": 2, "damaged": None}
        assert json.loads(capsys.readouterr().out) == [row]
        (web.settings.jobs / ".glossaries" / "mr.txt").write_bytes(b"\xff")
        assert main(["glossary", "list"]) == 0
        shown = capsys.readouterr()
        assert shown.out.splitlines()[1:] == [
            "hi    language        2",
            "mr    language  damaged",
        ]
        assert "`lorajob glossary remove mr --all`" in shown.err and shown.err.count("\n") == 1
        assert main(["glossary", "remove", "mr", "--all"]) == 0
        assert capsys.readouterr().out == "mr: 0 removed, 0 terms in all\n"
        # As it was before.
        local.glossaries.remove_all("hi")
        local.glossaries.add("hi", ["Nairobi", "DGX Spark\tdee jee|डी जी", "#metoo"])
        local.glossaries.add("de", many)
        monkeypatch.delenv("LORAJOB_URL", raising=False)


def _reached(web: Web, url: str | None) -> dict[str, str]:
    """The variables that name the service, over HTTP or beside it."""
    if url is not None:
        return {"LORAJOB_URL": url, "LORAJOB_API_KEY": "send"}
    return {
        "LORAJOB_REDIS_URL": url_of(web.settings),
        "LORAJOB_HOME": str(web.settings.home),
        "LORAJOB_ARTIFACTS": str(web.settings.jobs),
    }


@pytest.mark.parametrize(
    "url",
    [
        "http://ana:hidden@h",
        "http://h:99999",
        "http://h:x",
        "http://h/?key=hidden",
        "http://a b",
        f"http://{'a' * 64}",
        "ftp://h",
        "http://",
    ],
)
def test_a_wrong_url_of_a_server_is_one_line_without_secrets(url: str) -> None:
    with pytest.raises(UsageError, match=r"url: ") as found:
        WebApi(url)
    assert "hidden" not in str(found.value)


def test_a_wrong_key_is_one_line_that_does_not_show_it() -> None:
    for key in ("hidden\nhidden", "hidden नम"):
        with pytest.raises(UsageError, match="LORAJOB_API_KEY: has a character") as found:
            WebApi("http://h", key)
        assert "hidden" not in str(found.value)


class Streams:
    """A server whose streams of a log end early: each is some events or an error."""

    url = "http://h"

    def __init__(self, *streams: str | ServiceError) -> None:
        self.streams, self.asked = list(streams), list[dict[str, str]]()

    @contextmanager
    def open(self, *_: object, headers: dict[str, str]) -> Iterator[io.BytesIO]:
        self.asked.append(headers)
        stream = self.streams.pop(0)
        if isinstance(stream, ServiceError):
            raise stream
        yield io.BytesIO(stream.encode())


def test_a_log_goes_on_after_pauses_when_the_server_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("lorajob.client.remote.time.sleep", pauses.append)
    line = 'event: log\nid: train:4\ndata: {"stage": "train", "text": "one\\n"}\n\n'
    end = 'event: end\ndata: {"state": "failed"}\n\n'
    away = ServiceError("away")
    api = _streams(line, away, away, "", end)
    assert "".join(follow_log(api, "hi-1")) == "==> train <==\none\n"
    assert pauses == [1, 2, 4, 8]
    assert api.asked == [{}, *[{"Last-Event-ID": "train:4"}] * 4]
    with pytest.raises(ServiceError, match="away"):
        list(follow_log(_streams(away), "hi-1"))
    with pytest.raises(ServiceError, match="ends the log of hi-1"):
        list(follow_log(_streams(*[""] * 21), "hi-1"))


def _streams(*streams: str | ServiceError) -> Any:
    return Streams(*streams)
