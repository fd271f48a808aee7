"""A Redis user without dangerous and administrative commands, as managed Redis gives."""

import json
import time

import pytest
from pydantic import SecretStr

from lorajob.tasks.reconciler import LOCK, Reconciler
from lorajob.worker.connect import connect
from lorajob.worker.machine import self_check
from lorajob.worker.records.records import QUEUED, RUNNING, Records
from tests.support.command import run
from tests.support.records import claim, create, finish
from tests.support.service import wait_for

LEASE = 0.5


@pytest.fixture
def settings(redis_server, redis):
    """The service of a user of that kind; its password is `small`."""
    rules = ("on", ">small", "~*", "&*", "+@all", "-@dangerous", "-@admin")
    redis.execute_command("ACL", "SETUSER", "small", *rules)
    _, _, place = redis_server.redis_url.get_secret_value().rpartition("@")
    url = SecretStr(f"redis://small:small@{place}")
    changes = {"redis_url": url, "lease_seconds": LEASE, "max_losses": 2}
    yield redis_server.model_copy(update=changes)
    redis.execute_command("ACL", "DELUSER", "small")


def test_a_dead_worker_is_recovered_without_info(settings, redis, tmp_path):
    small = connect(settings)
    records = Records(small)
    job = create(records, tmp_path)
    claim(records, job, lease=0)
    reconciler = Reconciler(settings, small)
    wait_for(lambda: reconciler.turn() or records.load(job.id).stages["preprocess"].losses == 1)


def test_doctor_reads_the_version_without_info(settings):
    found = json.loads(
        run(
            "doctor", "--json", env={"LORAJOB_REDIS_URL": settings.redis_url.get_secret_value()}
        ).stdout
    )
    (redis,) = [it for it in found if it["name"] == "redis" and "is Redis" in it["text"]]
    assert redis["state"] == "ok"


def test_a_reconciler_that_cannot_work_for_a_lease_is_complained_of(settings, redis, tmp_path):
    redis.execute_command("ACL", "SETUSER", "small", "-zrangebyscore")
    reconciler = Reconciler(settings, connect(settings))
    try:
        wait_for(lambda: reconciler.turn() or self_check.complaints)
        assert "reconciler: cannot do its work" in self_check.complaints["reconciler"]
        redis.execute_command("ACL", "SETUSER", "small", "+@all")
        wait_for(lambda: reconciler.turn() or not self_check.complaints)
    finally:
        self_check.complaints.clear()


def test_a_damaged_record_is_set_aside_and_the_rest_goes_on(redis_server, redis, tmp_path, caplog):
    settings = redis_server.model_copy(update={"lease_seconds": LEASE, "max_losses": 2})
    records = Records(redis)
    damaged, wrong, good = (create(records, tmp_path) for _ in range(3))
    for job in (damaged, wrong, good):
        claim(records, job, lease=0)
    redis.hset(f"lorajob:job:{damaged.id}", "ended", "not JSON")
    redis.delete(f"lorajob:job:{wrong.id}")
    redis.set(f"lorajob:job:{wrong.id}", "a string")
    reconciler = Reconciler(settings, redis)
    wait_for(
        lambda: reconciler.turn() or records.load(good.id).stages["preprocess"].state == "queued"
    )
    for job in (damaged, wrong):
        assert redis.zscore(RUNNING, job.id) is None
        assert f"{job.id} is set aside" in caplog.text


def test_leases_from_before_a_step_back_of_the_clock_run_out(redis_server, redis, tmp_path):
    lease = 3.0  # so long does no machine stand still between two renewals
    settings = redis_server.model_copy(update={"lease_seconds": lease, "max_losses": 2})
    records = Records(redis)
    dead, living, waits = (create(records, tmp_path) for _ in range(3))
    held = {job.id: claim(records, job, lease=lease) for job in (dead, living)}
    ahead = redis.time()[0] + 3600
    for job in (dead, living):
        redis.hset(f"lorajob:job:{job.id}", "preprocess.lease", ahead)
        redis.zadd(RUNNING, {job.id: ahead})
    redis.zadd(QUEUED, {waits.id: ahead})
    redis.set(LOCK, "of a dead worker", px=3_600_000)
    assert records.touch(held[living.id], None, lease) == "held"
    assert redis.zscore(RUNNING, living.id) <= redis.time()[0] + 1 + lease
    reconciler = Reconciler(settings, redis)

    def turn():
        records.touch(held[living.id], None, lease)
        reconciler.turn()
        return records.load(dead.id).stages["preprocess"].state == "queued"

    wait_for(turn)
    assert records.load(living.id).stages["preprocess"].state == "running"
    wait_for(lambda: turn() and redis.zscore(QUEUED, waits.id) < time.time() + 60)


def test_a_job_that_is_done_leaves_no_losses(redis, tmp_path):
    records = Records(redis)
    job = create(records, tmp_path)
    held = claim(records, job)
    assert records.fail_retryable(held, "a kill", 3) == "queued"
    assert records.load(job.id).stages["preprocess"].faults == {"lost": 1}
    finish(records, job, "preprocess")
    stage = records.load(job.id).stages["preprocess"]
    assert (stage.losses, stage.faults, stage.avoid) == (0, {}, ())
