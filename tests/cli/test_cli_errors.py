"""What a user gets wrong is said in one line, with the right exit code and no traceback."""

import errno
import io
import json
import tarfile
from pathlib import Path

import pytest
from redis import Redis

from lorajob.cli.errors import user_errors
from lorajob.worker.connect import connect
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import JOB, environment, job_record, run, succeeded_record, url_of
from tests.support.ports import free_port

FAILED, USAGE = 1, 2


@pytest.fixture
def env(redis_server: Settings, tmp_path: Path) -> dict[str, str]:
    with connect(redis_server) as client:
        client.flushall()
    return environment(redis_url=url_of(redis_server), home=tmp_path / "home")


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """A manifest that `submit` accepts; nobody will read its audio."""
    path = tmp_path / "clips.tsv"
    path.write_text("audio\ttext\na.wav\tनमस्ते\n", "utf-8")
    return str(path)


def complaint(*args: str, env: dict[str, str], code: int) -> str:
    """The one line that `lorajob ARGS` says before it ends with `code`."""
    done = run(*args, env=env)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("lorajob: ")
    return line


def nothing_is_queued(redis_server: Settings, env: dict[str, str]) -> bool:
    with connect(redis_server) as redis:
        left = [key for key in redis.scan_iter() if not key.startswith("lorajob:workers")]
    jobs = Path(env["LORAJOB_HOME"]) / "jobs"
    return left == [] and not (jobs.exists() and any(jobs.iterdir()))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--lang", "hindhi"], ["language", "'hindhi'", "hi"]),
        (["--lang", "hi", "--set", "train.epoch=2"], ["train.epoch", "train.epochs"]),
        (["--lang", "hi", "--set", "trian.epochs=2"], ["trian", "train"]),
        (["--lang", "hi", "--set", "train.epochs=0"], ["train.epochs", "0", "greater than 0"]),
        (["--lang", "hi", "--set", "train.epochs=many"], ["train.epochs", "'many'", "integer"]),
        (["--lang", "hi", "--set", "train.dropout=1.5"], ["train.dropout", "1.5", "less than 1"]),
        (["--lang", "hi", "--set", "preprocess.max_seconds=31"], ["31", "30"]),
        (["--lang", "hi", "--set", "train.quantization=2bit"], ["'2bit'", "'4bit'"]),
        (["--lang", "hi", "--set", "train.epochs"], ["--set", "'train.epochs'", "name=value"]),
        (["--lang", "hi", "--set", "train.epochs=[1"], ["--set", "train.epochs=[1"]),
        (["--lang", "hi", "--preset", "slow"], ["preset", "'slow'", "default", "fast"]),
        (["--lang", "hi", "--preset", "quality"], ["'quality'", "no better than default", "leave"]),
        (["--lang", "hi", "--base-model", "./nowhere"], ["base_model", "'./nowhere'", "Hub id"]),
        (["--lang", "hi", "--base-model", "small"], ["base_model", "openai/whisper-small"]),
        (["--lang", "hi", "--worker-timeout", "5"], ["--worker-timeout", "--wait"]),
        (["--lang", "hi", "--wait", "--worker-timeout", "soon"], ["--worker-timeout", "'soon'"]),
        (["--lang", "hi", "--spec", "no-such.yaml"], ["--spec", "no-such.yaml"]),
        (["--lang", "hi", "--set", f"train.epochs={'[' * 2000}"], ["--set", "not YAML"]),
        (["--lang", "hi,"], ["--lang", "an empty name"]),
        (["--lang", "hi,mr", "--set", "language=hi"], ["--set", "'language=hi'"]),
        ([], ["--lang", "missing"]),
        (["--langs", "hi"], ["--langs", "--lang"]),
        (["--lang", "hi", "more"], ["more", "lorajob submit --help"]),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_queued(
    args: list[str],
    words: list[str],
    env: dict[str, str],
    corpus: str,
    redis_server: Settings,
) -> None:
    line = complaint("submit", "--corpus", corpus, *args, env=env, code=USAGE)
    for word in words:
        assert word in line
    assert nothing_is_queued(redis_server, env)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- hi\n", ["--spec", "mapping"]),
        ("language: [hi\n", ["--spec", "not YAML"]),
        ("language: " + "[" * 3000, ["--spec", "not YAML", "nested too deeply"]),
        ("language: hi\nepochs: 3\n", ["epochs", "no such setting"]),
        ("language: hi\ntrain: {epochs: -1}\n", ["train.epochs", "-1"]),
        ("corpus: x.tsv\n", ["--lang", "missing"]),
    ],
)
def test_a_wrong_spec_file_is_refused(
    text: str, words: list[str], env: dict[str, str], corpus: str, tmp_path: Path
) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(text, "utf-8")
    args = ["submit", "--spec", str(spec)] + (["--corpus", corpus] if "x.tsv" not in text else [])
    line = complaint(*args, env=env, code=USAGE)
    for word in words:
        assert word in line


def test_a_corpus_that_is_missing_or_of_no_known_kind_is_refused(
    env: dict[str, str], tmp_path: Path
) -> None:
    missing = str(tmp_path / "hi.tar.gz")
    line = complaint("submit", "--lang", "hi", "--corpus", missing, env=env, code=USAGE)
    assert "corpus" in line
    assert missing in line
    (tmp_path / "hi.zip").write_bytes(b"PK")
    zipped = str(tmp_path / "hi.zip")
    line = complaint("submit", "--lang", "hi", "--corpus", zipped, env=env, code=USAGE)
    assert "tar.gz" in line


def test_a_tarball_of_another_language_is_refused(
    env: dict[str, str], tmp_path: Path, redis_server: Settings
) -> None:
    path = tmp_path / "release.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        table = b"client_id\tpath\tsentence\n"
        member = tarfile.TarInfo("cv-corpus-23.0-2025-09-05/ml/train.tsv")
        member.size = len(table)
        archive.addfile(member, io.BytesIO(table))
    line = complaint("submit", "--lang", "hi", "--corpus", str(path), env=env, code=USAGE)
    assert "ml" in line
    assert "hi" in line
    assert nothing_is_queued(redis_server, env)


def test_an_empty_language_is_named_though_there_is_no_corpus_either(env: dict[str, str]) -> None:
    for languages in ("hi,", ",hi", "hi,,mr"):
        assert "an empty name" in complaint("submit", "--lang", languages, env=env, code=USAGE)


def test_without_a_corpus_one_sentence_says_where_corpora_come_from(env: dict[str, str]) -> None:
    line = complaint("submit", "--lang", "hi", env=env, code=FAILED)
    assert "LORAJOB_CORPORA" in line
    assert "Mozilla Data Collective" in line


@pytest.mark.parametrize("command", [("batch",), ("submit", "--spec"), ("glossary", "add", "hi")])
def test_a_file_that_fails_while_it_is_read_is_one_line(
    env: dict[str, str], command: tuple[str, ...]
) -> None:
    # Reading its first page is an error without the name of the file.
    line = complaint(*command, "/proc/self/mem", env=env, code=USAGE)
    assert "/proc/self/mem" in line and "cannot be read" in line


def test_a_failing_disk_is_one_line_and_another_error_of_the_system_is_a_bug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with user_errors() as outcome:
        raise OSError(errno.EIO, "Input/output error")
    assert outcome.code == FAILED
    assert capsys.readouterr().err == "lorajob: reading or writing: Input/output error\n"
    with pytest.raises(OSError, match="Bad file descriptor"), user_errors():
        raise OSError(errno.EBADF, "Bad file descriptor")


def test_no_service_is_said_in_one_line(corpus: str, tmp_path: Path) -> None:
    nowhere = environment(home=tmp_path / "home")
    line = complaint("submit", "--lang", "hi", "--corpus", corpus, env=nowhere, code=FAILED)
    assert "lorajob up" in line
    for args in (["status"], ["status", JOB], ["watch", JOB], ["cancel", JOB], ["retry", JOB]):
        assert "lorajob up" in complaint(*args, env=nowhere, code=FAILED)


def test_no_redis_at_the_url_is_said_without_the_password(corpus: str, tmp_path: Path) -> None:
    url = f"redis://:hidden@127.0.0.1:{free_port()}/0"
    env = environment(redis_url=url, home=tmp_path / "home")
    line = complaint("submit", "--lang", "hi", "--corpus", corpus, env=env, code=FAILED)
    assert "127.0.0.1" in line
    assert "hidden" not in line
    assert not list(Path(env["LORAJOB_HOME"]).rglob("spec.json"))
    assert "127.0.0.1" in complaint("status", env=env, code=FAILED)


def test_a_wrong_password_is_said_in_one_line(redis_server: Settings, tmp_path: Path) -> None:
    port = Redis.from_url(url_of(redis_server)).connection_pool.connection_kwargs["port"]
    env = environment(redis_url=f"redis://:wrong@127.0.0.1:{port}/0", home=tmp_path)
    assert "wrong" not in complaint("status", env=env, code=FAILED).replace("WRONGPASS", "")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "127.0.0.1:6379", "redis://127.0.0.1:x", "unix:///run/r"]
)
def test_what_is_no_redis_url_is_said_in_one_line(url: str, tmp_path: Path) -> None:
    env = environment(redis_url=url, home=tmp_path)
    commands = (["status"], ["status", "hi-1a2b3c4d"], ["worker", "--queue", "cpu"], ["up"])
    for command in (*commands, ["up", "--detach"]):
        assert "LORAJOB_REDIS_URL" in complaint(*command, env=env, code=USAGE)
    told = run("doctor", env=env)
    assert "fail redis" in told.stdout and "Traceback" not in told.stderr
    (tmp_path / "up.json").write_text(json.dumps({"redis_url": url}))  # no word of the user's
    env.pop("LORAJOB_REDIS_URL")
    assert "up.json is damaged" in complaint("status", env=env, code=FAILED)


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    env = environment(lease_seconds="long", home=tmp_path)
    line = complaint("status", env=env, code=USAGE)
    assert "LORAJOB_LEASE_SECONDS" in line
    assert "'long'" in line


@pytest.mark.parametrize("place", ["s3://", "s3:///", "s3:///jobs", "gs://", "file:///"])
def test_artifacts_in_no_bucket_are_refused_and_no_folder_is_called_so(
    place: str, tmp_path: Path, redis_server: Settings, corpus: str
) -> None:
    env = environment(redis_url=url_of(redis_server), home=tmp_path / "home", artifacts=place)
    here = tmp_path / "here"
    here.mkdir()
    done = run("submit", "--lang", "hi", "--corpus", corpus, env=env, cwd=here)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr == f"lorajob: {place}: names no bucket, as s3://bucket/jobs does\n"
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("command", ["status", "watch", "logs", "cancel", "retry"])
def test_an_unknown_job_is_named(command: str, env: dict[str, str]) -> None:
    assert "'hi-00000000'" in complaint(command, "hi-00000000", env=env, code=FAILED)


@pytest.mark.parametrize(
    ("command", "job"),
    [
        ("status", "../other"),
        ("watch", "/etc"),
        ("logs", "../../etc"),
        ("logs", "."),
        ("cancel", "HI-1"),
        ("retry", "hi-1\n"),
        ("status", "a\nb"),
    ],
)
def test_what_cannot_be_a_job_id_reaches_no_path(
    command: str, job: str, env: dict[str, str]
) -> None:
    assert repr(job) in complaint(command, job, env=env, code=USAGE)


def test_transcribing_needs_a_job_a_model_and_audio(env: dict[str, str], tmp_path: Path) -> None:
    audio = tmp_path / "clip.wav"
    audio.write_bytes(b"")
    missing = str(tmp_path / "missing.wav")
    assert "AUDIO" in complaint("transcribe", JOB, env=env, code=USAGE)
    assert missing in complaint("transcribe", JOB, missing, env=env, code=USAGE)
    assert JOB in complaint("transcribe", JOB, str(audio), env=env, code=FAILED)
    job_record(Path(env["LORAJOB_HOME"]) / "jobs")
    assert "no model yet" in complaint("transcribe", JOB, str(audio), env=env, code=FAILED)


def test_a_report_needs_error_rates(env: dict[str, str]) -> None:
    assert JOB in complaint("report", JOB, env=env, code=FAILED)
    job_record(Path(env["LORAJOB_HOME"]) / "jobs")
    assert "no error rates yet" in complaint("report", JOB, env=env, code=FAILED)


def test_a_finished_job_is_neither_cancelled_nor_retried(
    env: dict[str, str], redis_server: Settings
) -> None:
    with connect(redis_server) as redis:
        Records(redis).create(succeeded_record(Path(env["LORAJOB_HOME"]) / "jobs"))
    for command in ("cancel", "retry"):
        assert "succeeded" in complaint(command, JOB, env=env, code=USAGE)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["statsu"], ["'statsu'", "status"]),
        (["worker"], ["--queue"]),
        (["worker", "--queue", "tpu"], ["'tpu'", "cpu", "gpu"]),
        (["logs", JOB, "--stage", "tune"], ["'tune'", "train"]),
        (["flower", "--port", "0"], ["--port", "0"]),
        (["--fast"], ["--fast"]),
    ],
)
def test_clicks_own_complaints_take_one_line_too(
    args: list[str], words: list[str], env: dict[str, str]
) -> None:
    line = complaint(*args, env=env, code=USAGE)
    for word in words:
        assert word in line


def test_flower_wants_a_password(env: dict[str, str]) -> None:
    assert "LORAJOB_FLOWER_PASSWORD" in complaint("flower", env=env, code=USAGE)


def test_a_home_that_is_a_file_is_said_in_one_line(corpus: str, redis_server: Settings) -> None:
    env = environment(redis_url=url_of(redis_server), home=corpus)
    line = complaint("submit", "--lang", "hi", "--corpus", corpus, env=env, code=FAILED)
    assert corpus in line
    with connect(redis_server) as redis:
        assert Records(redis).newest() == []
