"""`lorajob clean` deletes what can be made again, and nothing without --yes."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis import Redis

from lorajob.cli.clean import size_words
from lorajob.cli.main import cli
from lorajob.errors import ServiceError, UsageError
from lorajob.job.jobdir import STAGES
from lorajob.tasks.disk import disk_items, free_disk
from lorajob.tasks.jobs import Jobs
from lorajob.worker.records.record import StageRecord, new_stages
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import job_record


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with 1000 bytes of each kind, 400 of the cache linked to a job, and a job."""
    for name in ("LORAJOB_REDIS_URL", "LORAJOB_ARTIFACTS", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name, size in (
        ("jobs/hi-1/preprocess/a.arrow", 400),
        ("cache/corpus/key/b", 600),
        ("corpora/key/c.tar.gz", 1000),
        ("models/whisper/d", 1000),
        ("hf/hub/models--x/e", 1000),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    os.link(tmp_path / "jobs/hi-1/preprocess/a.arrow", tmp_path / "cache/corpus/key/a.arrow")
    return tmp_path


def test_sizes_tell_what_is_shared_with_jobs(home: Path) -> None:
    sizes = {it.what: (it.bytes, it.alone) for it in disk_items(Settings())}
    assert sizes == {
        "jobs": (400, 0),
        "cache": (1000, 600),
        "corpora": (1000, 1000),
        "models": (1000, 1000),
        "Hub's models": (1000, 1000),
    }
    told = CliRunner().invoke(cli, ["status", "--disk", "--json"])
    assert [it["what"] for it in json.loads(told.stdout)["items"]] == list(sizes)
    table = CliRunner().invoke(cli, ["status", "--disk"]).stdout
    assert "clean models" in table and "free on the disk of" in table


def test_nothing_is_deleted_without_yes(home: Path) -> None:
    told = CliRunner().invoke(cli, ["clean"])
    assert told.exit_code == 0 and "--yes deletes it" in told.output
    assert (home / "cache/corpus/key/b").exists() and (home / "models/whisper/d").exists()


def test_only_what_was_named_is_deleted_and_jobs_stay(home: Path) -> None:
    told = CliRunner().invoke(cli, ["clean", "cache", "corpora", "--yes"])
    assert told.exit_code == 0, told.output
    assert not (home / "cache/corpus/key").exists() and not (home / "corpora/key").exists()
    assert (home / "models/whisper/d").exists()
    assert (home / "jobs/hi-1/preprocess/a.arrow").stat().st_nlink == 1
    assert CliRunner().invoke(cli, ["clean", "--yes"]).exit_code == 0
    assert not (home / "models/whisper").exists() and (home / "hf/hub/models--x/e").exists()


def test_what_is_freed_is_told_although_a_later_kind_fails(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_REDIS_URL", "redis://127.0.0.1:1/0")
    (folder := home / "jobs/.uploads" / ("a" * 64)).mkdir(parents=True)
    os.utime(folder, (0, 0))
    told = CliRunner().invoke(cli, ["clean", "cache", "uploads", "--yes"])
    assert isinstance(told.exception, ServiceError)
    assert told.stdout.split() == ["cache", "0", "MB", "freed"]


def test_models_stay_while_a_job_runs(home: Path, redis_server: Settings, redis: Redis) -> None:
    stages = new_stages() | {STAGES[0]: StageRecord(state="running", lease=1e12)}
    Records(redis).create(job_record(home / "jobs", state="running", stages=stages))
    with pytest.raises(UsageError, match="models: hi-1a2b3c4d runs and may load one"):
        free_disk(Jobs(redis_server), ("cache", "models"))
    assert (home / "cache/corpus/key/b").exists()


def test_unused_corpora_of_other_machines_are_deleted(
    home: Path, redis_server: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_REDIS_URL", redis_server.redis_url.get_secret_value())

    def sent() -> Path:
        path = home / "jobs/.uploads" / ("a" * 64) / "hi.tar.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 2_000_000)
        for it in (path, path.parent):
            os.utime(it, (0, 0))
        return path

    path = sent()
    sizes = {it.what: it.bytes for it in disk_items(Settings())}
    assert sizes["jobs"] == 400 and sizes["uploads"] == 2_000_000
    run = CliRunner().invoke
    assert run(cli, ["clean", "--yes"]).exit_code == 0 and path.exists()
    assert run(cli, ["clean", "uploads"]).stdout.split() == ["uploads", "2", "MB"]
    assert path.exists()
    assert run(cli, ["clean", "uploads", "--yes"]).stdout.split() == ["uploads", "2", "MB", "freed"]
    assert not path.parent.exists()
    nothing = run(cli, ["clean", "uploads"])
    assert nothing.exit_code == 0 and nothing.stdout.split() == ["uploads", "0", "MB"]
    assert nothing.stderr == "lorajob: nothing is deleted; there is nothing to delete\n"
    path = sent()
    assert (
        run(cli, ["clean", "uploads"]).stderr == "lorajob: nothing is deleted; --yes deletes it\n"
    )
    assert "1 unused corpora would be deleted" in run(cli, ["prune"]).stderr
    assert path.exists()
    assert "1 unused corpora deleted" in run(cli, ["prune", "--older", "30d"]).stderr
    assert not path.exists()


def test_sizes_in_words() -> None:
    assert [size_words(it) for it in (0, 12_400_000, 3_440_000_000)] == ["0 MB", "12 MB", "3.4 GB"]
