"""Attempts that are lost: how often, by whom, and what the record tells of them afterwards."""

import threading
import time

import pytest
from redis.exceptions import ResponseError

from lorajob.job.report import Progress
from lorajob.job.results import StageResult
from lorajob.worker.connect import retry_redis
from lorajob.worker.records.record import EndedAttempt
from lorajob.worker.records.records import QUEUED, RUNNING, Claim, Refusal
from tests.support.records import LEASE, LOSSES, claim, create, finish
from tests.support.service import wait_for

EXPIRED = "its worker was not heard of until its lease ran out"


def reasons(records, job) -> list[str]:
    return [attempt.why for attempt in records.load(job.id).ended]


def lose_once(records, job) -> str:
    claim(records, job, lease=0)
    return records.expire(job.id, LOSSES)


def test_a_lease_that_ran_out_puts_the_stage_back_into_the_queue(records, job, redis):
    claim(records, job, lease=0)
    assert job.id in records.expired(1000)
    assert records.expire(job.id, LOSSES) == "queued"
    record = records.load(job.id)
    assert record.stages["preprocess"].state == "queued"
    assert record.stages["preprocess"].losses == 1
    assert job.id not in records.expired(1000)
    assert redis.zscore(QUEUED, job.id) == pytest.approx(redis.time()[0], abs=5)


def test_a_lease_that_holds_is_left_alone(records, job):
    held = claim(records, job)
    assert records.expire(job.id, LOSSES) == "held"
    assert records.touch(held) == "held"
    assert job.id not in records.expired(1000)


def test_every_attempt_that_ended_is_told_with_its_worker_its_step_and_why(records, job):
    held = claim(records, job)
    records.touch(held, Progress(step=7, total=9))
    records.release(held, "its worker was told to stop")
    claim(records, job, lease=0)
    before = time.time()
    finish(records, job, "preprocess")
    first, second, third = records.load(job.id).ended
    assert isinstance(first, EndedAttempt)
    assert (first.number, first.step, first.worker) == (1, 7, "cpu@here")
    assert first.started_at <= first.ended_at <= second.ended_at
    assert abs(third.ended_at - before) < 60
    whys = ["its worker was told to stop", EXPIRED, "succeeded"]
    assert [attempt.why for attempt in (first, second, third)] == whys
    assert second.step is None


def test_an_owner_that_comes_back_before_anybody_else_keeps_its_stage(records, job, redis):
    held = claim(records, job, lease=0)
    records.expire(job.id, LOSSES)
    assert records.touch(held, Progress(step=3), LEASE) == "held"
    record = records.load(job.id)
    assert record.stages["preprocess"].state == "running"
    assert record.stages["preprocess"].losses == 0
    assert record.ended == ()
    assert redis.zscore(QUEUED, job.id) is None
    assert records.claim(job.id, "preprocess", "w", LEASE, LOSSES) == Refusal("held")


def test_an_owner_that_finished_meanwhile_commits_what_nobody_else_has_taken(records, job):
    held = claim(records, job, lease=0)
    records.expire(job.id, LOSSES)
    assert records.commit(held, StageResult(answer=42)) == "settled"
    assert records.commit(held, StageResult(answer=42)) == "settled"
    assert reasons(records, job) == ["succeeded"]


def test_an_owner_that_gave_its_stage_back_cannot_revive_it(records, job):
    held = claim(records, job)
    records.release(held, "its worker was told to stop")
    assert records.touch(held, lease_seconds=LEASE) == "superseded"
    assert records.commit(held, StageResult()) == "superseded"


def test_a_stage_lost_too_often_in_a_row_fails_its_job_with_the_last_reason(records, job):
    assert [lose_once(records, job) for _ in range(LOSSES)] == ["queued", "queued", "failed"]
    record = records.load(job.id)
    assert record.state == "failed"
    assert record.error == (
        "preprocess: given up after 3 attempts in a row without a new checkpoint or result; "
        f"the last one: {EXPIRED}"
    )
    assert records.claim(job.id, "preprocess", "w", LEASE, LOSSES) == Refusal("failed")
    records.retry(job.id)
    assert lose_once(records, job) == "queued"  # counted anew


def test_a_claim_of_a_dead_owners_stage_counts_the_loss_too(records, job):
    for _ in range(LOSSES):
        claimed = records.claim(job.id, "preprocess", "w", 0, LOSSES)
        assert isinstance(claimed, Claim)
    assert records.claim(job.id, "preprocess", "w", 0, LOSSES) == Refusal("failed")
    assert len(reasons(records, job)) == LOSSES


def test_a_new_checkpoint_ends_a_row_of_losses_and_an_old_one_does_not(records, job):
    finish(records, job, "preprocess")

    def train(checkpoint):
        held = claim(records, job, "train")
        records.touch(held, Progress(step=checkpoint + 1, checkpoint=checkpoint))
        return records.fail_retryable(held, "stage train was ended by SIGKILL", LOSSES)

    assert [train(step) for step in (10, 20, 30, 40)] == ["queued"] * 4
    assert train(0) == "queued"  # begun anew: its checkpoints are of no use any more
    assert [train(step) for step in (10, 20, 30, 40)] == ["queued"] * 4
    assert [train(40) for _ in range(2)] == ["queued", "failed"]


def test_a_loss_is_told_by_its_owner_alone(records, job):
    stale = claim(records, job, lease=0)
    fresh = claim(records, job)
    assert records.fail_retryable(stale, "late", LOSSES) == "superseded"
    assert (
        records.fail_retryable(fresh, "stage preprocess was ended by SIGSEGV", LOSSES) == "queued"
    )
    assert reasons(records, job)[-1] == "stage preprocess was ended by SIGSEGV"


def test_a_lost_attempt_of_a_cancelled_job_is_not_tried_again(records, job):
    held = claim(records, job)
    records.cancel(job.id)
    assert (
        records.fail_retryable(held, "stage preprocess was ended by SIGKILL", LOSSES) == "cancelled"
    )
    assert records.load(job.id).state == "cancelled"
    assert records.retry(job.id) == "retried"


def test_whoever_works_on_a_record_that_is_gone_hears_it(records, job):
    held = claim(records, job)
    records.delete(job.id)
    assert records.touch(held) == "forgotten"
    assert records.expire(job.id, LOSSES) == "held"


def test_only_jobs_that_wait_or_run_are_in_an_index(records, job, redis):
    def places():
        return [redis.zscore(index, job.id) is not None for index in (QUEUED, RUNNING)]

    assert places() == [True, False]
    held = claim(records, job)
    assert places() == [False, True]
    records.commit(held, StageResult())
    assert places() == [True, False]
    held = claim(records, job, "train")
    records.fail(held, "model: no")
    assert places() == [False, False]
    records.retry(job.id)
    assert places() == [True, False]
    records.cancel(job.id)
    assert places() == [False, False]
    records.retry(job.id)
    finish(records, job, "train", "evaluate", "convert")
    assert places() == [False, False]
    records.create(records.load(job.id))
    assert places() == [False, False]


def test_of_the_jobs_that_wait_the_longest_are_looked_at_first(records, tmp_path, redis):
    jobs = [create(records, tmp_path) for _ in range(3)]
    for age, one in zip((500, 900, 100), jobs, strict=True):
        redis.zadd(QUEUED, {one.id: redis.time()[0] - age})
    overdue = [job_id for job_id in records.overdue(300, 1000) if job_id in {j.id for j in jobs}]
    assert overdue == [jobs[1].id, jobs[0].id]
    assert len(records.overdue(300, 1)) == 1
    records.wait_anew(jobs[1].id)
    assert jobs[1].id not in records.overdue(300, 1000)
    for one in jobs:
        records.delete(one.id)
    records.wait_anew(jobs[1].id)
    assert redis.zscore(QUEUED, jobs[1].id) is None


def test_the_list_of_attempts_stays_short(records, job):
    for _ in range(105):
        claim(records, job, lease=0)
        records.expire(job.id, 1000)
    ended = records.load(job.id).ended
    assert len(ended) == 100
    assert (ended[0].number, ended[-1].number) == (6, 105)


def test_an_attempt_made_by_hand_is_outnumbered(records, job):
    claimed = records.claim(job.id, "preprocess", "w", LEASE, LOSSES, known_attempt=7)
    assert isinstance(claimed, Claim) and claimed.attempt == 8
    records.release(claimed, "its worker was told to stop")
    assert claim(records, job).attempt == 9


def test_a_redis_without_room_takes_a_commit_and_delays_a_claim(records, job, redis, caplog):
    def make_room():
        wait_for(lambda: "Redis refuses, and is asked again" in caplog.text)
        redis.config_set("maxmemory", "0")

    held = claim(records, job)
    redis.config_set("maxmemory", "1")
    room = threading.Thread(target=make_room)
    try:
        assert records.commit(held, StageResult(answer=42)) == "settled"
        room.start()
        assert isinstance(
            retry_redis(lambda: records.claim(job.id, "train", "w", LEASE, LOSSES)), Claim
        )
        room.join()
    finally:
        redis.config_set("maxmemory", "0")


@pytest.mark.parametrize("role", ["replica", "cut off replica", "without replicas"])
def test_a_redis_after_a_failover_delays_a_claim(records, job, redis, caplog, role):
    def fail_over():
        wait_for(lambda: "Redis refuses, and is asked again" in caplog.text)
        back()

    def back():
        redis.replicaof("NO", "ONE")
        redis.config_set("min-replicas-to-write", "0")
        redis.config_set("replica-serve-stale-data", "yes")

    if role == "without replicas":
        redis.config_set("min-replicas-to-write", "1")
    else:
        redis.config_set("replica-serve-stale-data", "no" if role == "cut off replica" else "yes")
        redis.replicaof("127.0.0.1", "1")
    passing = threading.Thread(target=fail_over)
    passing.start()
    try:
        claimed = retry_redis(lambda: records.claim(job.id, "preprocess", "w", LEASE, LOSSES))
        assert isinstance(claimed, Claim)
    finally:
        back()
        passing.join()


def test_a_mistake_of_ours_is_not_asked_again(redis):
    redis.set("lorajob:text", "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        retry_redis(lambda: redis.hget("lorajob:text", "field"))
