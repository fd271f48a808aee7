"""Redis away, wiped or full, a full disk, results that expired, and people who cancel."""

import json
import signal
import time
from pathlib import Path

from lorajob.job.jobdir import STAGES, JobDir
from lorajob.tasks.rebuild import rebuild
from lorajob.worker.records.record import JobRecord
from tests.support.command import run
from tests.support.fleet import (
    SAVE_STEPS,
    Fleet,
    adapter,
    checkpoints,
    commits,
    end_tree,
    log_lines,
    resumed_at,
    stage_processes,
    trainer,
)
from tests.support.procs import limit_files, running
from tests.support.service import command_lines, wait_for


def training_is_over(record: JobRecord) -> bool:
    return JobDir(Path(record.folder)).result("train") is not None


def test_a_redis_that_is_away_for_seconds_stops_no_training(fleet, expected):
    fleet.staff(cpu=1, gpu=1)
    record = fleet.submit("hi-00000100")
    fleet.train_to(record, 5)
    child = trainer(record)
    fleet.kill_redis()
    time.sleep(3)  # the outage itself
    fleet.start_redis()
    done = fleet.wait_until(record, "succeeded")
    assert trainer(record) is None and child is not None
    assert commits(done) == list(STAGES)
    assert not resumed_at(record)
    assert adapter(record.folder) == expected


def test_a_stage_that_ends_while_redis_is_away_is_committed_when_it_is_back(fleet, expected):
    fleet.staff(cpu=1, gpu=1)
    record = fleet.submit("hi-00000101")
    fleet.train_to(record, 5)
    fleet.kill_redis()
    away = time.monotonic()
    fleet.let_go(record)
    wait_for(lambda: training_is_over(record), 60)
    answer = run("status", record.id, "--json", env=fleet.environment())
    assert json.loads(answer.stdout)["state"] == "running"
    assert "its job.json is shown instead" in answer.stderr
    wait_for(lambda: time.monotonic() - away >= 26, 90)  # Celery itself gives up after 20 s
    fleet.start_redis()
    done = fleet.wait_until(record, "succeeded", 120)
    assert sorted(commits(done)) == sorted(STAGES)
    assert done.stages["train"].attempts == 1
    assert adapter(record.folder) == expected


def test_a_wiped_redis_is_rebuilt_from_the_files(fleet, expected):
    fleet.staff(cpu=1, gpu=1)
    finished = fleet.new_job("hi-00000102", real=())
    fleet.send(finished)
    fleet.wait_until(finished, "succeeded")
    record = fleet.submit("hi-00000103")
    fleet.train_to(record, SAVE_STEPS + 5)
    fleet.kill_redis()
    fleet.start_redis(wipe=True)
    wait_for(lambda: not stage_processes(record))  # a worker whose record is gone saves and ends
    wait_for(lambda: JobRecord.read(Path(record.folder) / "job.json").stages["train"].lease is None)
    answer = run("status", record.id, env=fleet.environment())
    assert "its job.json is shown instead" in answer.stderr
    assert "`lorajob rebuild`" in run("status", env=fleet.environment()).stderr
    told = run("rebuild", env=fleet.environment())
    assert told.returncode == 0, told.stderr
    assert {finished.id, record.id} <= set(told.stdout.split())
    assert fleet.load(finished).state == "succeeded"
    done = fleet.wait_until(record, "succeeded", 120)
    assert resumed_at(record) and min(resumed_at(record)) > SAVE_STEPS
    assert adapter(record.folder) == expected
    assert done.stages["train"].attempt > 1
    assert rebuild(fleet.settings).jobs == ()


def test_a_job_cancelled_in_the_queue_stays_cancelled_when_its_worker_comes_back(fleet):
    fleet.staff(cpu=0, gpu=0)
    record = fleet.submit("hi-00000104")
    assert fleet.jobs.cancel(record.id) == "cancelled"
    fleet.staff(cpu=1, gpu=1)
    wait_for(fleet.drained)
    cancelled = fleet.load(record)
    assert cancelled.state == "cancelled"
    assert cancelled.ended == () and not stage_processes(record)


def test_a_training_that_is_cancelled_keeps_its_checkpoints_for_a_retry(fleet, expected):
    fleet.staff(cpu=1, gpu=1)
    record = fleet.submit("hi-00000105")
    fleet.train_to(record, 5)
    assert fleet.jobs.cancel(record.id) == "cancelling"
    cancelled = fleet.wait_until(record, "cancelled")
    assert cancelled.ended[-1].why == "cancelled"
    assert checkpoints(record) and not training_is_over(record)
    fleet.jobs.retry(record.id)
    done = fleet.wait_until(record, "succeeded")
    assert min(resumed_at(record)) >= 5
    assert adapter(record.folder) == expected
    assert sorted(commits(done)) == sorted(STAGES)


def test_a_cancel_while_a_checkpoint_is_written_leaves_it_whole(fleet, expected):
    fleet.staff(cpu=1, gpu=1)
    record = fleet.submit("hi-00000106", "train.save_steps=1")
    fleet.hold(record, 30)  # it writes until then, and is not over before the cancel arrives
    folder = JobDir(Path(record.folder)).checkpoints / "1"
    wait_for(lambda: list(folder.glob(".step-*")) or fleet.step(record) >= 30)
    assert fleet.load(record).stages["train"].state == "running"
    fleet.jobs.cancel(record.id)
    fleet.wait_until(record, "cancelled")
    assert not list(folder.glob(".step-*"))
    fleet.jobs.retry(record.id)
    fleet.wait_until(record, "succeeded")
    assert not log_lines(record, "is broken")
    assert adapter(record.folder) == expected


def test_a_full_disk_is_one_clear_error_and_a_retry_goes_on(fleet, expected):
    settings = fleet.settings
    fleet.settings = settings.model_copy(update={"max_faults": 1})
    fleet.staff(cpu=1, gpu=0)
    fleet.staff(cpu=1, gpu=1)
    fleet.settings = settings
    record = fleet.submit("hi-00000107")
    fleet.train_to(record, SAVE_STEPS + 2)
    child = trainer(record)
    assert child is not None
    limit_files(child, 20_000)
    failed = fleet.wait_until(record, "failed")
    assert failed.error == (
        f"{record.folder}: no room left on the disk for stage train; "
        f"make some, then `lorajob retry {record.id}`"
    )
    assert not training_is_over(record)
    assert run("status", record.id, env=fleet.environment()).returncode == 0
    fleet.jobs.retry(record.id)
    fleet.wait_until(record, "succeeded")
    assert min(resumed_at(record)) >= SAVE_STEPS
    assert adapter(record.folder) == expected


def test_a_redis_whose_disk_is_full_delays_a_job_and_loses_nothing(fleet, expected):
    fleet.staff(cpu=1, gpu=1)
    record = fleet.submit("hi-00000108")
    fleet.train_to(record, SAVE_STEPS + 5)
    assert fleet.server is not None
    limit_files(fleet.server.pid, 1)
    try:
        wait_for(lambda: refuses(fleet))
        fleet.let_go(record)
        # Celery's worker ends on such an answer: its stage saves, or has just finished
        wait_for(lambda: not stage_processes(record), 60)
        answer = run("status", record.id, "--json", env=fleet.environment())
        assert json.loads(answer.stdout)["state"] == "running"
    finally:
        limit_files(fleet.server.pid, -1)
    wait_for(lambda: not refuses(fleet))
    for worker in fleet.alive("cpu") + fleet.alive("gpu"):
        end_tree(worker)  # about to end by themselves, or not: whoever keeps them starts new ones
    fleet.staff(cpu=1, gpu=1)
    done = fleet.wait_until(record, "succeeded", 120)
    assert sorted(commits(done)) == sorted(STAGES)
    assert all(step >= SAVE_STEPS for step in resumed_at(record))
    assert adapter(record.folder) == expected


def refuses(fleet: Fleet) -> bool:
    """Whether Redis has noticed that it cannot write."""
    from redis.exceptions import ResponseError

    with fleet.redis as redis:
        try:
            redis.set("lorajob:test", "x")
        except ResponseError as error:
            return str(error).startswith("MISCONF")
    return False


def test_results_that_expired_change_nothing(fleet):
    fleet.staff(cpu=1, gpu=1)
    record = fleet.submit("hi-00000109")
    fleet.train_to(record, 5)
    with fleet.redis as redis:
        assert redis.delete(*redis.keys("celery-task-meta-*"))
    done = fleet.wait_until(record, "succeeded")
    with fleet.redis as redis:
        redis.delete(*redis.keys("celery-task-meta-*"))
    answer = run("status", record.id, "--json", env=fleet.environment())
    assert json.loads(answer.stdout)["state"] == "succeeded"
    assert commits(done) == list(STAGES)


def test_whatever_these_failures_left_ends_with_its_worker(fleet):
    trees = [pid for worker in fleet.alive("cpu") + fleet.alive("gpu") for pid in worker.tree()]
    assert trees
    for worker in fleet.alive("cpu") + fleet.alive("gpu"):
        worker.signal(signal.SIGTERM)
    wait_for(lambda: not any(running(pid) for pid in trees), 60)
    assert not [line for line in command_lines().values() if str(fleet.settings.jobs) in line]
