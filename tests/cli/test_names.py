"""Jobs are called by a name, the beginning of an id or @last, and lists are filtered and sorted."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from redis import Redis

from lorajob.cli.context import JOB
from lorajob.cli.main import COMMANDS, cli
from lorajob.cli.submit import tell_twin
from lorajob.cli.tables import base_name, corpus_words, jobs_table
from lorajob.client.job import Job
from lorajob.client.service import Client
from lorajob.errors import JobNotFoundError, ServiceError, UsageError
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec, build_spec
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.listing import JobFilter, Sort, list_jobs, parse_filter
from lorajob.tasks.naming import find_id, parse_naming
from lorajob.worker.connect import connect
from lorajob.worker.records.names import Naming
from lorajob.worker.records.orders import CHANGED, place_all_anew
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import environment, job_record, run, succeeded_record, url_of
from tests.support.records import claim


@pytest.fixture
def records(redis_server: Settings, redis: Redis) -> Iterator[Records]:
    with connect(redis_server) as client:
        yield Records(client)


@pytest.fixture
def jobs(redis_server: Settings, records: Records) -> Jobs:
    return Jobs(redis_server.model_copy(update={"user": "me"}))


def test_a_name_and_tags_are_checked() -> None:
    assert parse_naming("r32_small.v2", ["kind=baseline", "data=cv-24/hi"]) == Naming(
        "r32_small.v2", {"kind": "baseline", "data": "cv-24/hi"}
    )
    assert parse_naming("हिन्दी-1", []).name == "हिन्दी-1"
    assert parse_naming("baseline-20261127", []).name == "baseline-20261127"
    assert parse_naming(None, []) == Naming()
    for name in ("", "a b", "-x", "@last", "hi-1a2b3c4d", "batch-7", "a\x1b[31m", "x" * 65, "a/b"):
        with pytest.raises(UsageError, match=r"^--name: "):
            parse_naming(name, [])
    for tags in (["kind"], ["=x"], ["a="], ["a=1", "a=2"], ["a=\u202e"], ["a b=c"]):
        with pytest.raises(UsageError, match=r"^--tag: "):
            parse_naming(None, tags)


def test_a_job_is_found_by_id_name_and_beginning(
    jobs: Jobs, records: Records, tmp_path: Path
) -> None:
    for job_id, name in (("hi-1a2b3c4d", "first"), ("hi-1a9", "hi"), ("ml-2b3c4d5e", None)):
        records.create(job_record(tmp_path, job_id, name=name))
    assert find_id(jobs, "first") == "hi-1a2b3c4d"
    assert find_id(jobs, "hi") == "hi-1a9"  # a name comes before a beginning
    assert find_id(jobs, "m") == find_id(jobs, "ml-2b") == "ml-2b3c4d5e"
    assert find_id(jobs, "hi-1a9") == "hi-1a9"
    assert find_id(jobs, "ta-00000000") == "ta-00000000"  # a whole id is not looked up
    with pytest.raises(UsageError, match=r"^JOB: 'hi-1a' fits hi-1a2b3c4d, hi-1a9; name one"):
        find_id(jobs, "hi-1a")
    with pytest.raises(UsageError, match="no job is called 'Second'"):
        find_id(jobs, "Second")
    for wrong in ("../x", "hi*", "a b", "\x1b"):
        with pytest.raises(UsageError, match="is not a job's id"):
            find_id(jobs, wrong)
    records.delete("hi-1a9")
    with pytest.raises(JobNotFoundError):
        records.load(find_id(jobs, "hi-1a9"))
    assert find_id(jobs, "hi") == "hi-1a2b3c4d"


def test_a_shared_name_lists_its_jobs_newest_first(
    jobs: Jobs, records: Records, tmp_path: Path
) -> None:
    for number in range(8):
        records.create(job_record(tmp_path, f"hi-{number}", name="again", created_at=number + 1))
    with pytest.raises(UsageError, match=r"'again' fits hi-7, hi-6, .*hi-2 and 2 more"):
        find_id(jobs, "again")


def test_last_is_the_newest_job_of_this_user(jobs: Jobs, records: Records, tmp_path: Path) -> None:
    with pytest.raises(JobNotFoundError, match="you have no job"):
        find_id(jobs, "@last")
    for job_id, user, at in (("hi-1", "me", 3.0), ("hi-2", "me", 1.0), ("hi-3", "other", 9.0)):
        records.create(job_record(tmp_path, job_id, user=user, created_at=at))
    assert find_id(jobs, "@last") == "hi-1"


def test_without_redis_an_id_is_left_as_it_is(tmp_path: Path) -> None:
    assert find_id(Jobs(Settings(home=tmp_path)), "hi-lost") == "hi-lost"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_takes_a_job_takes_its_name(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    arguments = [it for it in command.params if isinstance(it, click.Argument)]
    assert all(it.type is JOB for it in arguments if it.name in ("job", "jobs"))


@pytest.fixture
def several(records: Records, tmp_path: Path) -> list[JobRecord]:
    """Newest first: a queued one, one that has succeeded, two failed ones."""
    now = time.time()
    made = [
        job_record(tmp_path, "hi-1", created_at=now - 60, tags={"kind": "a"}, name="zebra"),
        succeeded_record(tmp_path, "hi-2").model_copy(
            update={"created_at": now - 7200, "tags": {"kind": "b"}}
        ),
        job_record(tmp_path, "ml-3", language="ml", state="failed", created_at=now - 90_000),
        job_record(
            tmp_path, "pa-in-4", language="pa-IN", state="failed", created_at=1.0, name="ant"
        ),
    ]
    for record in made:
        records.create(record)
    return made


def test_lists_are_filtered_and_sorted(jobs: Jobs, several: list[JobRecord]) -> None:
    def ids(wanted: JobFilter, limit: int = 9, **how: str) -> list[str]:
        return [it.id for it in list_jobs(jobs, wanted, limit, **how)]  # type: ignore[arg-type]

    assert ids(JobFilter()) == ["hi-1", "hi-2", "ml-3", "pa-in-4"]
    assert ids(JobFilter(), limit=2) == ["hi-1", "hi-2"]
    assert ids(parse_filter("Hindi,ml", [], [], None)) == ["hi-1", "hi-2", "ml-3"]
    assert ids(parse_filter("pa-IN", [], [], None)) == ["pa-in-4"]
    assert ids(parse_filter(None, ["failed"], [], "2d")) == ["ml-3"]
    assert ids(parse_filter(None, ["failed", "succeeded"], [], None), limit=2) == [
        "hi-2",
        "ml-3",
    ]
    assert ids(parse_filter(None, [], ["kind"], None)) == ["hi-1", "hi-2"]
    assert ids(parse_filter(None, [], ["kind=b"], None)) == ["hi-2"]
    assert ids(parse_filter(None, [], [], "1970-01-03")) == ["hi-1", "hi-2", "ml-3"]
    assert ids(JobFilter(), sort="oldest") == ["pa-in-4", "ml-3", "hi-2", "hi-1"]
    assert ids(JobFilter(), sort="wer", limit=1) == ["hi-2"]
    assert ids(JobFilter(), sort="name") == ["pa-in-4", "hi-1", "hi-2", "ml-3"]
    assert ids(JobFilter(), sort="before", limit=1) == ["hi-2"]
    assert ids(JobFilter(), sort="language") == ["hi-1", "hi-2", "ml-3", "pa-in-4"]
    assert ids(JobFilter(), sort="state") == ["ml-3", "pa-in-4", "hi-1", "hi-2"]
    assert ids(parse_filter("hi", [], [], None), sort="state") == ["hi-1", "hi-2"]
    for wrong in ("yesterday", "2026-13-01", "2"):
        with pytest.raises(UsageError, match=r"^--since: "):
            parse_filter(None, [], [], wrong)


def test_lists_are_sorted_by_the_error_rate_of_each_language(
    jobs: Jobs, records: Records, tmp_path: Path
) -> None:
    """By characters where a sentence is one word."""
    for name, language, wer, cer in (
        ("ja-1", "ja", 90.0, 30.0),
        ("ja-2", "ja", 95.0, 20.0),
        ("hi-3", "hi", 25.0, 60.0),
    ):
        record = succeeded_record(tmp_path, name).model_copy(update={"language": language})
        rates = {"wer": wer, "cer": cer, "raw_wer": wer, "raw_cer": cer, "clips": 4}
        result = StageResult.model_validate({"base": rates, "tuned": rates})
        stages = dict(record.stages)
        stages["evaluate"] = stages["evaluate"].model_copy(update={"result": result})
        records.create(record.model_copy(update={"stages": stages}))
    for sort in ("wer", "before"):
        found = list_jobs(jobs, JobFilter(), 9, sort)  # type: ignore[arg-type]
        assert [it.id for it in found] == ["ja-2", "hi-3", "ja-1"]


def test_sorted_lists_follow_changes_also_of_older_versions(
    jobs: Jobs, records: Records, several: list[JobRecord], tmp_path: Path, redis: Redis
) -> None:
    def ids(sort: Sort) -> list[str]:
        return [it.id for it in list_jobs(jobs, JobFilter(), 9, sort)]

    # No change is noted before a list is sorted.
    assert not redis.keys("lorajob:order:*")
    assert ids("state") == ["ml-3", "pa-in-4", "hi-1", "hi-2"]
    records.cancel("hi-1")
    assert ids("state") == ["hi-1", "ml-3", "pa-in-4", "hi-2"]
    records.retry("ml-3")
    held = claim(records, several[2])
    assert ids("state") == ["hi-1", "pa-in-4", "ml-3", "hi-2"]
    records.fail(held, "no clips")
    records.create(job_record(tmp_path, "hi-5", created_at=2.0, name="bee"))
    assert ids("name") == ["pa-in-4", "hi-5", "hi-1", "hi-2", "ml-3"]
    records.delete("pa-in-4")
    records.forget("hi-2")
    assert ids("name") == ["hi-5", "hi-1", "ml-3"]
    assert ids("cost")[0] == "ml-3"
    # A version without these lists notes nothing.
    redis.delete(CHANGED)
    records.cancel("hi-5")
    records.create(job_record(tmp_path, "hi-6", name="alpha", created_at=3.0))
    records.delete("hi-1")
    redis.delete(CHANGED)
    assert ids("state") == ["hi-5", "ml-3", "hi-6"]
    assert ids("name") == ["hi-6", "hi-5", "ml-3"]
    # A damaged record is left out, as in other lists.
    redis.hset("lorajob:job:ml-3", "created_at", "soon")
    redis.sadd(CHANGED, "ml-3")
    assert ids("name") == ["hi-6", "hi-5"]
    place_all_anew(redis)
    assert ids("name") == ["hi-6", "hi-5"]


def test_the_table_has_name_corpus_base_and_rates_on_80_columns(tmp_path: Path) -> None:
    from rich.console import Console

    job = succeeded_record(tmp_path).model_copy(
        update={
            "name": "baseline-of-the-whole-corpus",
            "corpus": "/corpora/cv-corpus-24.0-2025-12-05-hi.tar.gz",
            "base_model": "openai/whisper-large-v3-turbo",
        }
    )
    broken = job_record(tmp_path, "ml-1", state="failed", error="preprocess: " + "no clips " * 20)
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(jobs_table([job, broken], {}, time.time(), 80))
    heading, first, second = screen.export_text().splitlines()
    assert heading.split() == ["JOB", "NAME", "STATE", "PROGRESS", "CORPUS", "BASE"]
    for words in (job.id, "baseline-", "cv-corpus…", "turbo", "succeeded", "207.3 -> 52.0"):
        assert words in first
    assert "failed" in second and "preprocess: no clips" in second
    assert corpus_words(job) == "cv-corpus-24.0-2025-12-05-hi"
    for corpus, words in (
        ("hf:google/fleurs?config=hi_in", "fleurs"),
        ("s3://bucket/data/hi.tsv?signature=x", "hi"),
        ("/corpora/hi/", "hi"),
        ("mdc:abc", "abc"),
    ):
        assert corpus_words(job.model_copy(update={"corpus": corpus})) == words
    assert base_name("/models/mine/") == ("mine", "mine")
    snapshot = f"/cache/models--openai--whisper-small/snapshots/{'a1' * 20}"
    assert base_name(snapshot) == ("whisper-small", "small")
    assert base_name("openai/whisper-small") == ("whisper-small", "small")


def test_an_unavailable_service_hides_no_id_of_a_queued_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Away(Client):
        def twin(self, job: Job, spec: JobSpec) -> Job | None:
            raise ServiceError("away")

    client = Away(Jobs(Settings(home=tmp_path)))
    tell_twin(client, client.job_of("hi-00000001"), build_spec({"language": "hi", "corpus": ""}))
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_submitted_job_has_its_name_and_a_second_one_says_so(
    redis_server: Settings, redis: Redis, tmp_path: Path
) -> None:
    env = environment(redis_url=url_of(redis_server), home=tmp_path, user="me")
    corpus = tmp_path / "hi.tsv"
    corpus.write_text("audio\ttext\na.wav\tनमस्ते\n")
    (tmp_path / "a.wav").touch()
    given = ("--lang", "hi", "--corpus", str(corpus), "--base-model", "demo/whisper-base")
    first = run("submit", *given, "--name", "base-1", "--tag", "kind=a", env=env)
    assert (first.returncode, first.stderr) == (0, "")
    job_id = first.stdout.strip()
    second = run("submit", *given, "--name", "base-2", env=env)
    assert second.returncode == 0
    assert f"lorajob: {job_id} has the same settings, was submitted " in second.stderr
    assert second.stderr.endswith(f"{second.stdout.strip()} is queued nevertheless\n")
    assert len(second.stderr.splitlines()) == 1
    told = json.loads(run("status", "base-1", "--json", env=env).stdout)
    assert (told["id"], told["name"], told["tags"]) == (job_id, "base-1", {"kind": "a"})
    listed = run("status", "--tag", "kind=a", env=env).stdout
    assert job_id in listed and "base-1" in listed and "base-2" not in listed
    cancelled = run("cancel", "@last", env=env)
    assert cancelled.stdout == f"{second.stdout.strip()} is stopping\n"
