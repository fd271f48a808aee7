"""`lorajob submit` on a real Redis without workers: what is queued, and what is printed where."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorajob.job.jobdir import JOB_ID, JobDir
from lorajob.spec import JobSpec
from lorajob.worker.connect import connect
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import environment, run, url_of


@pytest.fixture
def records(redis_server: Settings) -> Iterator[Records]:
    with connect(redis_server) as client:
        client.flushall()
        yield Records(client)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "clips.tsv"
    path.write_text("audio\ttext\na.wav\tनमस्ते\n", "utf-8")
    return path


@pytest.fixture
def env(redis_server: Settings, records: Records, tmp_path: Path) -> dict[str, str]:
    return environment(redis_url=url_of(redis_server), home=tmp_path / "home")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\0b.tsv", "embedded null byte"),
        ("n" * 300 + ".tsv", "File name too long"),
        ("n" * 300 + "/hi.tar.gz", "File name too long"),
    ],
)
def test_what_can_be_no_path_is_one_line(env: dict[str, str], tmp_path: Path, text, why) -> None:
    spec, batch = tmp_path / "spec.yaml", tmp_path / "batch.yaml"
    for name in ("corpus", "base_model"):
        settings = {"corpus": "a", name: text}  # JSON is YAML
        spec.write_text(json.dumps({"language": "hi", **settings}))
        batch.write_text(json.dumps({"defaults": settings, "languages": ["hi", "mr"]}))
        for command in (["submit", "--spec", str(spec)], ["batch", str(batch)]):
            done = run(*command, env=env)
            assert (done.returncode, done.stdout) == (2, ""), done.stderr
            (line,) = done.stderr.splitlines()
            assert line.startswith(f"lorajob: {name}: ") and line.endswith(
                f"is not a valid path: {why}"
            )
            assert len(line) < 160


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://[bad/cv-hi.tar.gz?sig=s3cret", "is not a URL: Invalid IPv6 URL"),
        ("https:///cv-hi.tar.gz?sig=s3cret", "is not a URL: it names no server"),
        (
            "simplecache::https:///cv-hi.tar.gz?sig=s3cret",
            "is not a URL: https:///cv-hi.tar.gz?***",
        ),
    ],
)
def test_what_can_be_no_url_is_one_line_and_stops_no_other_language(
    env: dict[str, str], corpus: Path, records: Records, tmp_path: Path, url, why
) -> None:
    done = run("submit", "--lang", "hi", "--corpus", url, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"lorajob: {url.partition('?')[0]}?*** {why}\n"
    batch = tmp_path / "batch.yaml"
    languages = {"hi": {"corpus": url}, "mr": {"corpus": str(corpus)}}
    batch.write_text(json.dumps({"languages": languages}))
    done = run("batch", str(batch), env=env)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
    assert why in done.stderr and "s3cret" not in done.stderr
    states = {record.language: record.state for record in records.newest()}
    assert states == {"hi": "rejected", "mr": "queued"}


def test_the_help_says_that_a_corpus_may_be_a_url(env: dict[str, str]) -> None:
    told = " ".join(run("submit", "--help", env=env).stdout.split())
    assert "--corpus PATH_OR_URL" in told and "s3://bucket/cv_hi.tar.gz" in told


def test_submit_prints_the_id_alone_and_queues_the_job(
    env: dict[str, str], records: Records, corpus: Path
) -> None:
    done = run("submit", "--lang", "Hindi", "--corpus", str(corpus), env=env)
    assert done.returncode == 0
    assert done.stderr == ""
    job_id = done.stdout.removesuffix("\n")
    assert JOB_ID.fullmatch(job_id)
    assert job_id.startswith("hi-")
    record = records.load(job_id)
    assert record.state == "queued"
    assert record.corpus == str(corpus)
    assert json.loads(run("status", job_id, "--json", env=env).stdout)["artifacts"] == record.folder


def test_flags_override_the_spec_file_which_overrides_the_preset(
    env: dict[str, str], records: Records, corpus: Path, tmp_path: Path
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        f"language: no\ncorpus: {corpus}\nseed: 7\nbase_model: demo/whisper-base\n"
        "train: {epochs: 2, rank: 8, learning_rate: 1e-4}\n"
        "preprocess: {allow_script: true}\n",
        "utf-8",
    )
    args = ["--spec", str(path), "--preset", "fast", "--set", "train.rank=4"]
    job_id = run("submit", *args, env=env).stdout.strip()
    spec = JobSpec.load(Path(records.load(job_id).folder) / "spec.json")
    assert spec.language == "no"  # Norwegian, which older YAML takes for false
    assert spec.seed == 7
    assert spec.base_model == "demo/whisper-base"
    assert (spec.train.rank, spec.train.epochs, spec.train.decoder_only) == (4, 2, True)
    assert spec.train.learning_rate == 1e-4
    job_id = run("submit", *args, "--lang", "ml", "--base-model", "a/b", env=env).stdout.strip()
    assert JobSpec.load(Path(records.load(job_id).folder) / "spec.json").base_model == "a/b"
    assert job_id.startswith("ml-")


def test_the_corpus_of_the_language_is_found(
    env: dict[str, str], records: Records, tmp_path: Path
) -> None:
    folder = tmp_path / "corpora" / "hi"
    folder.mkdir(parents=True)
    (folder / "manifest.tsv").write_text("audio\ttext\na.wav\tनमस्ते\n", "utf-8")
    env = env | {"LORAJOB_CORPORA": str(folder.parent)}
    job_id = run("submit", "--lang", "hi", env=env).stdout.strip()
    assert records.load(job_id).corpus == str(folder)


def test_paths_from_here_reach_workers_elsewhere(
    env: dict[str, str], records: Records, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus.parent)
    (corpus.parent / "whisper").mkdir()
    Path("news.txt").write_text("एक वाक्य\n", "utf-8")
    args = ["--lang", "hi", "--corpus", corpus.name, "--base-model", "whisper"]
    record = records.load(run("submit", *args, "--text", "news.txt", env=env).stdout.strip())
    assert record.corpus == str(corpus)
    assert record.base_model == str(corpus.parent / "whisper")
    job = JobDir(Path(record.folder))
    assert JobSpec.load(job.spec_path).evaluate.text == str(corpus.parent / "news.txt")
    assert job.text.read_text("utf-8") == "एक वाक्य\n"


def test_a_cancelled_job_is_queued_again_by_retry(
    env: dict[str, str], records: Records, corpus: Path
) -> None:
    job_id = run("submit", "--lang", "hi", "--corpus", str(corpus), env=env).stdout.strip()
    cancelled = run("cancel", job_id, env=env)
    assert cancelled.stdout == f"{job_id} is stopping\n"
    assert records.load(job_id).state == "cancelled"
    assert run("retry", job_id, env=env).stdout == f"{job_id} is queued again\n"
    assert records.load(job_id).state == "queued"


def test_waiting_without_a_worker_warns_once_and_then_withdraws_the_job(
    env: dict[str, str], records: Records, corpus: Path
) -> None:
    args = ["--lang", "hi", "--corpus", str(corpus), "--wait", "--worker-timeout", "1.5"]
    done = run("submit", *args, env=env)
    assert done.returncode == 1
    job_id = done.stdout.strip()
    assert JOB_ID.fullmatch(job_id)
    assert records.load(job_id).state == "cancelled"
    assert done.stderr.count("no worker runs for the queue cpu") == 1
    assert "lorajob worker --queue cpu" in done.stderr
    assert "cancelled, because no worker ran" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
