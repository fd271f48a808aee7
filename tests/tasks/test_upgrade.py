"""What an earlier version has left, in Redis and in a job's folder, goes on under this one.

tests/data/older was written by that version against a real Redis: the keys, the claims it held,
what `status --json` and job.json said, and a job that was killed after a checkpoint of training.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from lorajob.job.jobdir import STAGES, JobDir
from lorajob.job.report import Progress, Report
from lorajob.job.results import StageResult
from lorajob.stage import run_stage
from lorajob.tasks.describe import describe
from lorajob.tasks.rebuild import record_of
from lorajob.worker.monitoring.census import CensusTaker
from lorajob.worker.records.batches import Batches
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim, Records

OLDER = Path(__file__).parents[1] / "data" / "older"
LOSSES = 3


@pytest.fixture
def older(redis: Redis, tmp_path: Path) -> dict[str, Any]:
    """The earlier version's keys, in Redis; returns the file with all that it says."""
    text = (OLDER / "redis.json").read_text("utf-8").replace("{jobs}", str(tmp_path))
    said: dict[str, Any] = json.loads(text)
    for key, entry in said["keys"].items():
        value = entry["value"]
        match entry["type"]:
            case "string":
                redis.set(key, value)
            case "hash":
                redis.hset(key, mapping=value)
            case "zset":
                # A lease of the file that never runs out is one that has just been renewed.
                leases = {name: min(until, time.time() + 60) for name, until in value.items()}
                redis.zadd(key, leases)
            case "set":
                redis.sadd(key, *value)
            case "list":
                redis.rpush(key, *value)
    return said


@pytest.fixture
def records(redis: Redis) -> Records:
    return Records(redis)


def claim_of(said: dict[str, Any], job_id: str) -> Claim:
    stage, fence, owner = said["claims"][job_id]
    return Claim(job_id, stage, fence, owner)


def claimed(records: Records, job_id: str, stage: str) -> Claim:
    claim = records.claim(job_id, stage, "new@host", 90, LOSSES)
    assert isinstance(claim, Claim), claim
    return claim


# Fields that this version adds, to a record and to what `status --json` says of it.
IN_STAGES = {f"stages.{name}.{it}" for name in STAGES for it in ("avoid", "due", "faults")}
IN_RECORDS = IN_STAGES | {"ended.kind", "more_corpora", "redis", "service", "version"}
IN_RECORDS |= {"name", "tags"}
IN_STATUS = {"attempts.kind", "improvement", "notes", "gate", "gate_reasons", "guards"}
IN_STATUS |= {"name", "tags"}
MODELS = ("base", "tuned", "converted")
IN_STATUS |= {f"metrics.{name}.{it}" for name in MODELS for it in ("clips", "wer_interval")}


def as_before(now: Any, before: Any, added: set[str]) -> str:
    """`now` as JSON in its order, without the fields that `before` lacks, which go to `added`."""

    def common(new: Any, old: Any, place: str) -> Any:
        if isinstance(new, dict) and isinstance(old, dict):
            added.update(f"{place}{name}" for name in new.keys() - old.keys())
            kept = (name for name in new if name in old)
            return {name: common(new[name], old[name], f"{place}{name}.") for name in kept}
        if isinstance(new, list | tuple) and isinstance(old, list) and len(new) == len(old):
            return [common(one, other, place) for one, other in zip(new, old, strict=True)]
        return new

    return json.dumps(common(now, before, ""))


def test_records_and_job_json_say_the_same_as_before(older, records):
    found = {record.id: record for record in records.load_many(records.ids())}
    described = {job_id: describe(record) for job_id, record in found.items()}
    assert described.keys() == older["described"].keys()
    told, kept = set[str](), set[str]()
    for job_id, said in older["described"].items():
        assert as_before(described[job_id], said, told) == json.dumps(said)
    assert told == IN_STATUS
    for job_id, mirrored in older["mirrored"].items():
        record = JobRecord.parse(json.dumps(mirrored).encode(), "job.json")
        assert as_before(record.model_dump(mode="json"), mirrored, kept) == json.dumps(mirrored)
        if record.over:  # a running one's job.json is older than its record
            assert record == found[job_id]
    assert kept == IN_RECORDS


def test_a_record_written_anew_has_the_fields_it_had(older, records):
    for key, entry in older["keys"].items():
        if entry["type"] == "hash":
            kept = {name: text for name, text in entry["value"].items() if "expired" not in name}
            written = records.load(entry["value"]["id"]).to_hash()
            assert set(written) == set(kept), key
            assert written["revision"] == kept["revision"]


def test_a_worker_of_this_version_goes_on_with_a_claim_of_the_earlier_one(older, records):
    claim = claim_of(older, "hi-00000002")
    assert records.touch(claim, Progress(step=46, total=180, checkpoint=45), 90) == "held"
    assert records.load(claim.job_id).stages["train"].checkpoint == 45
    assert records.commit(claim, StageResult(steps=180, loss=0.4)) == "settled"
    for stage in ("evaluate", "convert"):
        assert records.commit(claimed(records, claim.job_id, stage), StageResult()) == "settled"
    assert records.load(claim.job_id).state == "succeeded"
    cancelled = claim_of(older, "hi-00000008")
    assert records.touch(cancelled) == "cancelled" and records.cancelled(cancelled)
    assert records.load(cancelled.job_id).state == "cancelled"


def test_leases_that_ran_out_are_found_and_an_owner_may_come_back(older, records):
    assert records.expired(10) == ["hi-00000009"]
    assert records.expire("hi-00000009", LOSSES) == "queued"
    late = claim_of(older, "hi-00000003")  # of which the earlier version gave up
    assert records.load(late.job_id).stages["train"].state == "queued"
    assert records.touch(late, Progress(step=8, total=180), 90) == "held"
    record = records.load(late.job_id)
    assert (record.stages["train"].state, record.stages["train"].losses) == ("running", 0)
    later = claimed(records, "hi-00000009", "preprocess")
    assert records.load("hi-00000009").stages["preprocess"].attempts == 2
    assert records.commit(later, StageResult(train_clips=9)) == "settled"


def test_jobs_that_wait_or_have_ended_are_claimed_retried_and_counted(older, records, redis):
    standings = CensusTaker(redis).take().standings
    assert {job_id: at.state for job_id, at in standings.items()} == {
        job_id: described["state"] for job_id, described in older["described"].items()
    }
    assert standings["hi-00000004"].waits and standings["hi-00000004"].stage == "evaluate"
    assert standings["hi-00000004"].memory_gb == 24  # to which it was moved up
    assert standings["hi-00000007"].scores["tuned"].wer == 52.04
    assert records.load("hi-00000004").stages["evaluate"].losses == 1
    assert claimed(records, "hi-00000004", "evaluate").job_id == "hi-00000004"
    for job_id in ("hi-00000005", "hi-00000006"):
        assert records.retry(job_id) == "retried"
        assert claimed(records, job_id, "train").stage == "train"
    assert records.cancel("hi-00000001") == "cancelled"
    batch = Batches(redis).load("batch-0000abcd")
    assert [record.state for record in records.load_many(batch.jobs)] == ["running", "rejected"]
    lane = records.load("mr-00000001").lane
    added = records.create(
        records.load("ta-00000001").model_copy(update={"id": "ta-00000002", "state": "queued"})
    )
    assert added is not None and added.lane == lane  # of its batch, which the earlier one gave


def test_a_folder_left_half_done_goes_on_and_trains_anew_by_this_versions_plan(
    tiny_whisper: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    brief: None,
):
    """The labels that count have changed, so the checkpoint is of another plan of windows."""
    monkeypatch.chdir(tmp_path)
    # Its sounds take an untrained model minutes.
    monkeypatch.setattr("lorajob.evaluate.check_all", lambda *given: [])
    (tmp_path / "tiny").symlink_to(tiny_whisper)
    job = JobDir(shutil.copytree(OLDER / "hi-0000000a", tmp_path / "hi-0000000a"))
    record = record_of(job)
    assert (record.state, record.missing) == ("queued", STAGES[1:])
    assert record.stages["preprocess"].result == job.result("preprocess")
    assert record.stages["train"].checkpoint == 2
    attempt = job.last_attempt("train") + 1
    assert attempt == 2
    trained = run_stage("train", job, attempt, Report("train"))
    assert trained.as_json()["resumed_from"] == 0 and trained.as_json()["steps"] == 4
    assert "step-2 is of another plan of windows and set aside" in caplog.text
    for stage in ("evaluate", "convert"):
        run_stage(stage, job, 1, Report(stage))
    done = record_of(job)
    assert done.state == "succeeded" and list(done.scores) == [
        "base",
        "delivered",
        "tuned",
        "converted",
    ]
