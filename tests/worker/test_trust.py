"""Whoever forges a record or a spec reaches nothing outside LORAJOB_ARTIFACTS."""

import grp
import json
import os
import time
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis

from lorajob.job.jobdir import JobDir, write_json
from lorajob.spec import build_spec
from lorajob.storage.locations import open_location
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.prune import prune_all
from lorajob.worker.artifacts.lookup import open_job
from lorajob.worker.artifacts.signature import unsigned
from lorajob.worker.records.records import Records
from lorajob.worker.supervision.faults import Loss, loss_of
from tests.support.command import JOB, job_record, succeeded_record


@pytest.fixture
def job_id(jobs: Jobs, tmp_path: Path) -> str:
    manifest = tmp_path / "m.tsv"
    manifest.write_text("audio\ttext\na.wav\tone\nb.wav\ttwo\n")
    for name in "ab":
        (tmp_path / f"{name}.wav").touch()
    return jobs.submit(build_spec({"language": "en", "corpus": str(manifest), "base_model": "x/y"}))


def test_a_forged_folder_is_never_written_to(jobs: Jobs, redis: Redis, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    record = job_record(jobs.settings.jobs)
    jobs.records.create(record)
    redis.hset(f"lorajob:job:{JOB}", "folder", str(outside))
    assert jobs.records.load(JOB).folder == str(jobs.settings.jobs / JOB)
    jobs.cancel(JOB)
    assert not outside.exists()
    assert json.loads((jobs.settings.jobs / JOB / "job.json").read_bytes())["state"] == "cancelled"
    forged = record.model_copy(update={"folder": str(outside)})
    assert str(open_job(forged, jobs.settings).location.path) == str(jobs.settings.jobs / JOB)  # type: ignore[union-attr]


def test_prune_deletes_nothing_outside(jobs: Jobs, redis: Redis, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    record = succeeded_record(jobs.settings.jobs)
    Records(redis).create(record.model_copy(update={"created_at": time.time() - 1e6}))
    redis.hset(f"lorajob:job:{JOB}", "folder", str(outside))
    assert [it.id for it in prune_all(jobs, 60, "none").jobs] == [JOB]
    assert outside.is_dir() and not (jobs.settings.jobs / JOB).exists()


def test_only_its_user_reads_a_job(jobs: Jobs, job_id: str) -> None:
    folder = jobs.settings.jobs / job_id
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (folder, *folder.iterdir())}
    assert modes == {job_id: 0o700, "spec.json": 0o600, "job.json": 0o600}


def test_a_group_reads_and_writes_it_if_one_is_set(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_GROUP", grp.getgrgid(os.getgid()).gr_name)
    record = jobs.new_record(build_spec({"language": "en", "corpus": "c"}), "en-0000000a")
    open_job(record, jobs.settings).put_spec({})
    folder = jobs.settings.jobs / record.id
    assert folder.stat().st_mode & 0o7777 == 0o2770
    assert (folder / "spec.json").stat().st_mode & 0o7777 == 0o660
    # As does what is copied from another job, whatever its mode and the umask.
    weights = jobs.settings.jobs / "weights"
    weights.write_bytes(b"w")
    weights.chmod(0o600)
    before = os.umask(0o077)
    try:
        open_location(str(folder)).upload(weights, "start/weights")
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o7777 for path in (folder / "start", folder / "start/weights")]
    assert modes == [0o2770, 0o660]


def test_an_altered_or_unsigned_spec_is_refused(jobs: Jobs, tmp_path: Path) -> None:
    key = SecretStr("k" * 32)
    signing = Jobs(jobs.settings.model_copy(update={"signing_key": key}))
    signing._send = lambda record: None  # type: ignore[method-assign]
    spec = build_spec({"language": "en", "corpus": "c", "base_model": "x/y"})
    record = signing.new_record(spec, "en-0000000b")
    signing.queue(record, spec)
    files, job = open_job(record, signing.settings), JobDir(signing.settings.jobs / record.id)
    assert unsigned(files, job, key) is None
    assert unsigned(files, job, None) is None
    other = unsigned(files, job, SecretStr("other"))
    assert other is not None and "another LORAJOB_SIGNING_KEY" in other.message
    written = json.loads(job.spec_path.read_bytes())
    write_json(job.spec_path, written | {"corpus": "/etc"})
    altered = unsigned(files, job, key)
    assert altered is not None and "does not match its signature" in altered.message
    # Another worker may have the right key.
    assert isinstance(loss_of(altered, signing.settings), Loss)
    (job.root / "spec.sig").unlink()
    missing = unsigned(files, job, key)
    assert missing is not None and "are not signed" in missing.message
    assert loss_of(missing, signing.settings) == "own"
