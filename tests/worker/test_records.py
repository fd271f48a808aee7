import json
import threading
import time
from pathlib import Path

import pytest

from lorajob.errors import JobNotFoundError
from lorajob.job.jobdir import STAGES
from lorajob.job.report import Progress
from lorajob.job.results import StageResult
from lorajob.worker.connect import shown
from lorajob.worker.health import Unfit, report_fitness, unfit_workers
from lorajob.worker.heartbeats import HERE, VERSIONS, heartbeat, living, versions
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim, Refusal
from tests.support.records import LEASE, LOSSES, claim, create, finish
from tests.support.service import PASSWORD, wait_for

RESULT = StageResult(warnings=[], loss=1.25, name="हिन्दी", none=None)


def test_a_record_comes_back_as_it_was_stored_and_never_expires(records, job, redis):
    assert records.load(job.id) == job
    assert redis.ttl(f"lorajob:job:{job.id}") == -1
    assert job.missing == STAGES


def test_a_job_nobody_knows_is_an_error_that_names_it(records):
    for ask in (records.load, records.cancel, records.retry):
        with pytest.raises(JobNotFoundError, match="hi-nothere"):
            ask("hi-nothere")


def test_jobs_are_listed_newest_first(records, tmp_path):
    later = time.time() + 1000
    jobs = [create(records, tmp_path, later + n) for n in range(3)]
    assert [record.id for record in records.newest(2)] == [jobs[2].id, jobs[1].id]
    for job in jobs:
        records.delete(job.id)
    assert jobs[2].id not in [record.id for record in records.newest(100)]


def test_every_change_of_state_is_mirrored_beside_the_files(records, job):
    def mirrored():
        return json.loads((Path(job.folder) / "job.json").read_text("utf-8"))

    held = claim(records, job)
    assert mirrored()["stages"]["preprocess"]["state"] == "running"
    records.commit(held, RESULT)
    assert mirrored()["stages"]["preprocess"]["result"] == RESULT.as_json()
    records.cancel(job.id)
    assert JobRecord.model_validate(mirrored()) == records.load(job.id)


def test_a_disk_that_refuses_the_mirror_stops_no_job(records, job):
    (Path(job.folder) / "job.json").unlink()
    Path(job.folder).rmdir()
    Path(job.folder).write_text("in the way")
    finish(records, job, "preprocess")
    assert records.load(job.id).stages["preprocess"].state == "succeeded"


def test_of_two_deliveries_one_gets_the_stage(records, job):
    answers = []
    start = threading.Barrier(8)

    def deliver():
        start.wait()
        answers.append(records.claim(job.id, "preprocess", "cpu@here", LEASE, LOSSES))

    threads = [threading.Thread(target=deliver) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert answers.count(Refusal("held")) == 7
    assert records.load(job.id).stages["preprocess"].attempts == 1


def test_a_claim_asked_for_twice_by_the_same_owner_is_the_same_claim(records, job):
    first = records.claim(job.id, "preprocess", "cpu@here", LEASE, LOSSES, owner="token")
    assert records.claim(job.id, "preprocess", "cpu@here", LEASE, LOSSES, owner="token") == first


def test_a_stage_before_its_turn_or_after_its_end_is_refused(records, job):
    assert records.claim(job.id, "train", "gpu@here", LEASE, LOSSES) == Refusal("early")
    finish(records, job, "preprocess")
    assert records.claim(job.id, "preprocess", "cpu@here", LEASE, LOSSES) == Refusal("succeeded")
    assert records.claim("hi-nothere", "train", "gpu@here", LEASE, LOSSES) == Refusal("unknown")


def test_a_lease_that_ran_out_is_taken_over_and_the_first_owner_refused(records, job):
    stale = claim(records, job, lease=0)
    fresh = claim(records, job)
    assert fresh.attempt == stale.attempt + 1
    assert records.touch(stale, Progress(step=1), LEASE) == "superseded"
    assert records.commit(stale, RESULT) == "superseded"
    assert not records.fail(stale, "late") and not records.release(stale, "late")
    assert records.touch(fresh, Progress(step=2)) == "held"
    assert records.load(job.id).stages["preprocess"].progress == Progress(step=2)


def test_an_expired_lease_is_renewed_while_nobody_took_the_stage(records, job):
    held = claim(records, job, lease=0)
    assert records.touch(held, lease_seconds=LEASE) == "held"
    assert records.claim(job.id, "preprocess", "cpu@there", LEASE, LOSSES) == Refusal("held")


def test_commits_walk_through_the_stages_to_success(records, job):
    for number, stage in enumerate(STAGES):
        record = records.load(job.id)
        assert record.missing == STAGES[number:]
        assert record.stages[stage].state == "queued"
        assert record.state == ("running" if number else "queued")
        held = claim(records, job, stage)
        assert records.commit(held, RESULT) == "settled"
        assert records.commit(held, RESULT) == "settled"  # the answer was lost, asked again
    record = records.load(job.id)
    assert record.state == "succeeded" and record.over and not record.missing
    assert record.stages["convert"].result == RESULT
    started, finished = record.stages["train"].started_at, record.stages["train"].finished_at
    assert started is not None and finished is not None and started <= finished


def test_a_failed_stage_fails_its_job_and_a_retry_goes_on_from_it(records, job):
    finish(records, job, "preprocess")
    held = claim(records, job, "train")
    assert records.fail(held, "model: not a Whisper")
    record = records.load(job.id)
    assert record.state == "failed" and record.error == "model: not a Whisper"
    assert record.stages["train"].error == "model: not a Whisper"
    assert records.claim(job.id, "train", "gpu@here", LEASE, LOSSES) == Refusal("failed")
    assert records.retry(job.id) == "retried"
    record = records.load(job.id)
    assert record.state == "queued" and record.error is None
    assert [record.stages[stage].state for stage in STAGES] == [
        "succeeded",
        "queued",
        "waiting",
        "waiting",
    ]
    assert claim(records, job, "train").attempt == held.attempt + 1
    assert records.load(job.id).stages["train"].attempts == 2


def test_only_a_failed_or_cancelled_job_is_retried(records, job):
    assert records.retry(job.id) == "queued"
    claim(records, job)
    assert records.retry(job.id) == "running"
    assert records.load(job.id).stages["preprocess"].state == "running"


def test_a_queued_job_is_cancelled_at_once(records, job):
    assert records.cancel(job.id) == "cancelled"
    record = records.load(job.id)
    assert record.state == "cancelled" and record.stages["preprocess"].state == "cancelled"
    assert records.claim(job.id, "preprocess", "cpu@here", LEASE, LOSSES) == Refusal("cancelled")
    assert records.cancel(job.id) == "cancelled"


def test_a_running_job_hears_of_its_cancel_and_then_ends(records, job):
    held = claim(records, job)
    assert records.cancel(job.id) == "cancelling"
    assert records.load(job.id).state == "running"
    assert records.touch(held) == "cancelled"
    assert records.cancelled(held)
    assert records.load(job.id).state == "cancelled"


def test_a_cancel_that_comes_with_the_commit_keeps_the_stage_and_stops_the_job(records, job):
    held = claim(records, job)
    records.cancel(job.id)
    assert records.commit(held, RESULT) == "stopped"
    assert records.commit(held, RESULT) == "stopped"
    record = records.load(job.id)
    assert record.state == "cancelled"
    assert record.stages["preprocess"].state == "succeeded"
    assert record.stages["train"].state == "cancelled"


@pytest.mark.parametrize("order", ["dead before the cancel", "dead after it"])
def test_a_cancelled_job_whose_worker_died_ends_too(records, job, order):
    claim(records, job, lease=0 if order == "dead before the cancel" else 0.2)
    answer = records.cancel(job.id)
    if order == "dead after it":
        assert answer == "cancelling"
        wait_for(
            lambda: records.claim(job.id, "preprocess", "w", LEASE, LOSSES) == Refusal("cancelled")
        )
    assert records.load(job.id).state == "cancelled"


def test_a_released_stage_is_queued_again(records, job):
    assert records.release(claim(records, job), "its worker stops")
    assert records.load(job.id).stages["preprocess"].state == "queued"
    assert claim(records, job).attempt == 2


def test_a_released_stage_of_a_cancelled_job_is_cancelled(records, job):
    held = claim(records, job)
    records.cancel(job.id)
    assert records.release(held, "its worker stops")
    assert records.load(job.id).state == "cancelled"


def test_workers_are_counted_while_their_heart_beats(redis):
    heart = heartbeat(redis, ["gpu"], "gpu-test@here")
    heart.start()
    wait_for(lambda: "gpu-test@here" in living(redis, "gpu"))
    heart.stop()
    assert "gpu-test@here" not in living(redis, "gpu")
    redis.zadd("lorajob:workers:gpu", {"gpu-dead@here": time.time() - 60})
    assert "gpu-dead@here" not in living(redis, "gpu")


def test_what_a_killed_worker_has_stated_leaves_with_its_heartbeat(redis):
    now = redis.time()[0]
    redis.zadd("lorajob:workers:cpu", {"cpu-dead@here": now - 60, "cpu-ahead@here": now + 3600})
    dead, alive = {"cpu-dead@here", "gpu-never@here"}, "gpu-test@here"
    for name in (*dead, alive):
        redis.hset(VERSIONS, name, "{}")
        report_fitness(redis, name, Unfit("its disk is full", now))
    heart = heartbeat(redis, ["gpu", "gpu4"], alive)
    heart.start()
    wait_for(lambda: not dead & {*redis.hkeys(VERSIONS), *unfit_workers(redis)})
    assert versions(redis, [alive]) == {alive: HERE}
    assert set(unfit_workers(redis)) == {alive}
    # A heartbeat from before a step back of the clock counts from now on.
    wait_for(lambda: redis.zscore("lorajob:workers:cpu", "cpu-ahead@here") < now + 1800)
    heart.stop()
    assert redis.hkeys(VERSIONS) == []


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        (f"redis://:{PASSWORD}@host:1/0", "redis://:***@host:1/0"),
        (f"rediss://me:{PASSWORD}@host/2?ssl_cert_reqs=none", "rediss://me:***@host/2"),
        ("redis://host:1/0", "redis://host:1/0"),
        (f"redis://host/0?password={PASSWORD}", "redis://host/0"),
    ],
)
def test_a_url_is_shown_without_its_password(url, safe):
    assert shown(url) == safe
