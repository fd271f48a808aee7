"""What of a url may be seen by people, logs and webhooks."""

import json
import logging
from pathlib import Path

import pytest

from lorajob.corpora import remote
from lorajob.errors import LorajobError, UsageError
from lorajob.server.web.api_jobs import public_record
from lorajob.storage.store import Store
from lorajob.storage.urls import has_login, public, public_text
from lorajob.tasks.describe import describe
from lorajob.worker.settings import Settings
from tests.support.command import environment, job_record, run
from tests.support.web_server import Archive

SIGNED = "?X-Amz-Signature=s3cret&X-Amz-Credential=s3cret%2Fus-east-1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/cv-hi.tar.gz", "s3://bucket/cv-hi.tar.gz"),
        (f"https://h:8080/a@b.tar{SIGNED}", "https://h:8080/a@b.tar?***"),
        ("https://user:s3cret@h/a.tar", "https://***@h/a.tar"),
        ("simplecache::s3://user:s3c/ret@bucket/a.tar", "simplecache::s3://***@bucket/a.tar"),
        ("s3://user:s3c/r@et@bucket/a.tar", "s3://***@bucket/a.tar"),
        (
            f"zip://a.csv::https://u:s3cret@h/a.zip{SIGNED}::s3://u:s3cret@b/x",
            "zip://a.csv::https://***@h/a.zip?***::s3://***@b/x",
        ),
        ("https://[::1]:80/a.tar?k=s3cret", "https://[::1]:80/a.tar?***"),
        ("zip://a.csv::https://h/a@b.zip", "zip://a.csv::https://h/a@b.zip"),
        ("http://h:80/a@b.zip::https://h/x", "http://h:80/a@b.zip::https://h/x"),
        ("https://h/l'ete/a.tar?sig=s3cret", "https://h/l'ete/a.tar?***"),
        ("https://h/my corpus/a.tar?sig=s3cret", "https://h/my corpus/a.tar?***"),
        ("https://h/a.tar?sp=r&sig=a'b<s3 cret\ns3cret", "https://h/a.tar?***"),
        ("https://u:s3c'ret@h/a.tar", "https://***@h/a.tar"),
        ("https://user:s3 cret@h/a.tar", "https://***@h/a.tar"),
        ("https://u:80/80@h/a.tar", "https://***@h/a.tar"),
        ("https://[u:s3/cret@h/a.tar", "https://***@h/a.tar"),
        ("https://[u:s3]/cret@h/a.tar", "https://***@h/a.tar"),
        ("https://u:s3?cret@h/a.tar", "https://***@h/a.tar"),
        ("https://u:p@s3/cret@h/a.tar", "https://***@h/a.tar"),
        ("https://proxy/https://u:s3cret@h/a.tar", "https://proxy/https://***@h/a.tar"),
        ("why?.tar", "why?.tar"),
        ("why? a:b@c", "why? a:b@c"),
    ],
)
def test_neither_login_nor_query_is_shown(url: str, shown: str):
    assert public(url) == shown
    assert has_login(url) == ("***@" in shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            f"URL('https://h/a{SIGNED}'), twice (https://h/b{SIGNED}): gone",
            "URL('https://h/a?***'), twice (https://h/b?***): gone",
        ),
        ("'zip://a::s3://b/c?s3cret', <s3://b/c>", "'zip://a::s3://b/c?***', <s3://b/c>"),
        ('url="https://h/a?sig=a\'b%3Cs3cret", gone', 'url="https://h/a?***", gone'),
        ("URL('https://h/a?sig=a'b%3Cs3cret')", "URL('https://h/a?***')"),
        ("https://h/a?sig=a'b%3Cs3cret.", "https://h/a?***."),
        ("why? a:b@c", "why? a:b@c"),
    ],
)
def test_no_url_in_a_text_shows_more(text: str, shown: str):
    assert public_text(text, "s3://other") == shown


def test_the_url_that_a_text_is_about_may_have_spaces_and_quotes_in_it():
    url = "https://h/my corpus/l'ete.tar?sig=a 'b s3cret"
    shown = "https://h/my corpus/l'ete.tar?***"
    assert public_text(f"no {url!r}, no {url}.", url) == f'no "{shown}", no {shown}.'


@pytest.mark.parametrize(
    "url",
    ["simplecache::s3://user:s3cret@b/cv-hi.tar.gz", "https://user:s3c/ret@b/cv-hi.tar.gz"],
)
def test_a_url_with_a_login_is_refused_wherever_it_stands_in_a_chain(url: str):
    with pytest.raises(UsageError, match="must hold no credentials") as told:
        Store(url)
    assert "s3c" not in str(told.value)


def test_a_presigned_corpus_is_fetched_and_its_signature_told_to_nobody(
    web: Archive, monkeypatch, tmp_path: Path, caplog
):
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))
    caplog.set_level(logging.INFO, "lorajob")
    url = f"{web.url}{SIGNED}"
    assert remote.fetch(url).read_bytes() == web.data
    web.status = 403
    refused = []
    nobody, odd = "http://127.0.0.1:1/", f"it's  my/cv-hi.tar.gz{SIGNED}'  <s3cret"
    places = (url, f"{web.url}.zip{SIGNED}", f"{nobody}cv-hi.tar.gz{SIGNED}")
    for wrong in (*places, f"{nobody}{odd}", web.url.replace("cv-hi.tar.gz", odd)):
        with pytest.raises(LorajobError) as told:
            remote.fetch(wrong)
        refused.append(str(told.value))
    web.status = 404
    with pytest.raises(UsageError, match="does not exist") as gone:
        remote.check_remote(url)
    kept = [path.read_text("utf-8") for path in tmp_path.rglob("entry.json")]
    assert "is here" in caplog.text and len(kept) == 1
    assert "s3cret" not in " ".join([*refused, str(gone.value), *kept, caplog.text])


def test_the_description_of_a_job_holds_no_signature_and_its_record_does(tmp_path: Path):
    record = job_record(tmp_path).model_copy(update={"corpus": f"https://h/cv-hi.tar.gz{SIGNED}"})
    assert describe(record)["corpus"] == "https://h/cv-hi.tar.gz?***"
    signed = record.model_copy(update={"base_model": f"https://h/base{SIGNED}"})
    assert (
        describe(signed)["base_model"] == public_record(signed).base_model == "https://h/base?***"
    )
    assert type(record).from_hash(record.to_hash()).corpus == record.corpus
    settings = Settings(home=tmp_path)
    record = record.model_copy(update={"folder": str(settings.jobs / record.id)})
    record.save()
    env = environment(home=tmp_path)
    for arguments in (["status", record.id], ["status", record.id, "--json"]):
        told = run(*arguments, env=env)
        assert "h/cv-hi.tar.gz?***" in told.stdout and "s3cret" not in told.stdout + told.stderr
    told = json.loads(run("status", record.id, "--json", env=env).stdout)
    assert told["corpus"] == "https://h/cv-hi.tar.gz?***"


def test_a_setting_that_is_no_url_is_told_without_its_password(tmp_path: Path):
    env = environment(home=tmp_path)
    for place in ("s3://user:s3cret@[bad/jobs", "https://[bad/jobs?key=s3cret"):
        told = run("status", env=env | {"LORAJOB_ARTIFACTS": place})
        assert told.returncode == 2 and "s3cret" not in told.stderr, told
        assert len(told.stderr.splitlines()) == 1
