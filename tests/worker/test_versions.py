"""Workers of several versions: a job goes to one that reads it, and is never failed by another."""

import json
import signal
from dataclasses import replace

import pytest

from lorajob.errors import UsageError, VersionError
from lorajob.job.jobdir import JobDir, write_json
from lorajob.spec import FORMAT, JobSpec
from lorajob.worker.heartbeats import (
    EARLIER,
    HERE,
    VERSIONS,
    living,
    mixture,
    new_enough,
    versions,
)
from lorajob.worker.queues import KINDS
from tests.support import older_release
from tests.support.command import run
from tests.support.service import wait_for


def submit(fleet, job_id, version):
    """A job of a format whose stages take no time."""
    record = fleet.new_job(job_id, real=(), version=version)
    fleet.send(record)
    return record


def declined(fleet, record, stage="preprocess") -> int:
    """How often workers have left the job to others."""
    return int(fleet.redis.hget(f"lorajob:job:{record.id}", f"{stage}.declined") or 0)


@pytest.fixture
def older_python(tmp_path):
    return older_release.install(tmp_path)


def test_an_older_worker_leaves_a_newer_job_to_a_newer_one(fleet, older_python):
    older = fleet.start_worker("cpu", python=older_python)
    record = submit(fleet, "hi-00000900", FORMAT)
    known = submit(fleet, "hi-00000901", FORMAT - 1)
    wait_for(lambda: declined(fleet, record) >= 2, 60)
    wait_for(lambda: fleet.load(known).stages["preprocess"].state == "succeeded", 60)
    told = run("status", record.id, env=fleet.environment()).stdout
    assert f"{older.name}@" in told and "runs lorajob 0.0.9, which is too old" in told
    newer = fleet.start_worker("cpu")
    fleet.start_worker("gpu")
    listed = run("status", env=fleet.environment()).stderr
    assert f"lorajob: workers of several versions: 0.0.9 (format {FORMAT - 1}) on " in listed
    doctor = json.loads(run("doctor", "--json", env=fleet.environment()).stdout)
    warned = [it["text"] for it in doctor if it["name"] == "workers" and it["state"] == "warn"]
    assert any(text.startswith("several versions: 0.0.9") for text in warned)
    assert any(f"too old for jobs submitted here (format {FORMAT})" in text for text in warned)
    done = fleet.wait_until(record, "succeeded", 240)
    workers = {entry.worker.partition("@")[0] for entry in done.ended if entry.stage != "train"}
    assert older.name not in workers and newer.name in workers
    for each in (done, fleet.wait_until(known, "succeeded", 240)):
        assert [entry for entry in each.ended if entry.kind] == []
        assert all(stage.losses == 0 for stage in each.stages.values())
    # The last older worker is updated.
    older.signal(signal.SIGTERM)
    older.process.wait(timeout=240)
    fleet.start_worker("cpu")

    def names() -> list[str]:
        return [name for queue in KINDS for name in living(fleet.redis, queue)]

    wait_for(lambda: len(names()) == 3)
    assert mixture(versions(fleet.redis, names())) == ""


def test_versions_of_workers_that_do_not_state_one_are_the_earliest(redis):
    redis.hset(VERSIONS, "new@here", json.dumps({"package": "0.2.0", "format": FORMAT + 1}))
    redis.hset(VERSIONS, "odd@here", "[]")
    names = ["new@here", "odd@here", "old@here"]
    found = versions(redis, names)
    assert (found["odd@here"], found["old@here"]) == (EARLIER, EARLIER)
    assert new_enough(redis, names, FORMAT) == ["new@here"]
    assert new_enough(redis, names, 0) == names
    assert mixture(found) == (
        f"an earlier version (format 0) on odd@here, old@here; 0.2.0 (format {FORMAT + 1}) on "
        "new@here"
    )
    assert mixture({"a": HERE, "b": replace(HERE)}) == ""


def test_spec_json_states_its_format_and_a_newer_one_is_refused_in_one_line(tmp_path):
    job = JobDir(tmp_path)
    spec = JobSpec(language="hi", corpus="/nowhere")
    write_json(job.spec_path, spec.as_written())
    assert json.loads(job.spec_path.read_bytes())["version"] == FORMAT
    assert JobSpec.load(job.spec_path) == spec
    write_json(job.spec_path, spec.as_written() | {"version": FORMAT + 1, "novelty": 1})
    with pytest.raises(VersionError, match="of a newer lorajob") as refused:
        JobSpec.load(job.spec_path)
    assert "\n" not in str(refused.value)
    write_json(job.spec_path, spec.as_written() | {"version": "new"})
    with pytest.raises(UsageError, match="version: 'new' is not a whole number"):
        JobSpec.load(job.spec_path)
