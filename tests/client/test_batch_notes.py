"""What a user reads about the jobs of a batch, beside the service and over HTTP."""

from pathlib import Path

import pytest
from redis import Redis

from lorajob.cli.main import main
from lorajob.client.service import Client
from lorajob.spec import build_spec
from lorajob.tasks.jobs import Jobs
from tests.support.command import url_of
from tests.support.corpora import write_corpus
from tests.support.remote_web import Web


@pytest.fixture(params=["beside", "over_http"])
def local(
    request: pytest.FixtureRequest, web: Web, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> Client:
    """The jobs of a service, which the commands reach in one of two ways."""
    if request.param == "over_http":
        monkeypatch.setenv("LORAJOB_URL", web.url)
        monkeypatch.setenv("LORAJOB_API_KEY", "send")
    else:
        monkeypatch.setenv("LORAJOB_REDIS_URL", url_of(web.settings))
        monkeypatch.setenv("LORAJOB_ARTIFACTS", str(web.settings.jobs))
    return Client(Jobs(web.settings))


def test_a_retry_of_a_batch_says_which_jobs_it_refused(
    local: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "clips.csv")
    asked = {"language": "hi", "corpus": str(corpus), "base_model": "demo/whisper-base"}
    missing = asked | {"evaluate": {"glossary": str(tmp_path / "missing.txt")}}
    made = local.submit_batch([build_spec(asked), build_spec(missing)])
    batch, (rejected, why) = local.batch(made.batch.id), *made.rejected.items()
    assert batch.cancel() == [it for it in made.batch.jobs if it != rejected]
    assert main(["retry", batch.id, "--anyone"]) == 1
    told = capsys.readouterr()
    assert told.out == f"1 of the jobs of {batch.id} are queued again\n"
    assert told.err == f"lorajob: {rejected}: {why}\n"


@pytest.mark.parametrize("kind", ["text", "glossary"])
def test_a_batch_with_an_edited_file_is_the_same_and_a_line_says_so(
    local: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    for code in ("hi", "mr"):
        write_corpus(tmp_path / f"{code}.csv")
        (tmp_path / f"{code}.txt").write_text("नमस्ते\n", "utf-8")
    ask = ["submit", "--lang", "hi,mr", "--corpus", f"{tmp_path}/{{language}}.csv"]
    ask += [
        "--base-model",
        "demo/whisper-base",
        "--set",
        f"evaluate.{kind}={tmp_path}/{{language}}.txt",
    ]
    assert main(ask) == 0
    batch = capsys.readouterr().out
    assert main(ask) == 0
    again = capsys.readouterr()
    assert again.out == batch and "changed" not in again.err
    (tmp_path / "mr.txt").write_text("नमस्कार\n", "utf-8")
    assert main(ask) == 0
    (job,) = (it.id for it in local.batch(batch.strip()).jobs if it.language == "mr")
    edited = capsys.readouterr()
    change = f"evaluate.{kind}: {tmp_path}/mr.txt has changed since; to use it, submit with --anew"
    assert edited.out == batch and f"lorajob: {job}: {change}\n" in edited.err
    assert edited.err.count("changed since") == 1
    assert main([*ask, "--anew"]) == 0
    assert "changed" not in capsys.readouterr().err
