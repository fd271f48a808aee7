"""The reconciler's turns, one by one, at a real Redis without any worker."""

import json
import time

import pytest

from lorajob.errors import RecordError
from lorajob.tasks import broker
from lorajob.tasks import reconciler as reconciler_module
from lorajob.tasks.broker import send
from lorajob.tasks.reconciler import LOCK, Reconciler
from lorajob.worker import health
from lorajob.worker.connect import connect
from lorajob.worker.queues import all_queues, lists_of, queue_name
from lorajob.worker.records.records import QUEUED, Fault, Records
from tests.support.records import claim, create, finish
from tests.support.service import settings_for, wait_for

FIRST = lists_of([queue_name("preprocess", 0)])[1]  # where jobs of no special urgency wait

LEASE = 0.5


@pytest.fixture
def redis(redis_server):
    with connect(redis_server) as client:
        client.flushall()
        wait_for(lambda: client.info("server")["uptime_in_seconds"] > LEASE)
        yield client
        client.flushall()


@pytest.fixture
def settings(redis_server):
    return redis_server.model_copy(update={"lease_seconds": LEASE, "max_losses": 2})


@pytest.fixture
def records(redis) -> Records:
    return Records(redis)


@pytest.fixture
def reconciler(settings, redis) -> Reconciler:
    return Reconciler(settings, redis)


def waiting(redis) -> list[broker.Delivery]:
    """What the queues hold, a message twice where it is there twice."""
    found = []
    for queue in lists_of(all_queues()):
        found += [broker._delivery(text) for text in redis.lrange(queue, 0, -1)]
    return found


def grow_old(redis, job) -> None:
    """Have a job wait in the queue since a minute."""
    redis.zadd(QUEUED, {job.id: redis.time()[0] - 60})


def take(redis, seconds_ago: float) -> str:
    """Take the next message as a worker does; returns its tag."""
    text = redis.rpop(FIRST)
    tag = json.loads(text)["properties"]["delivery_tag"]
    redis.hset("unacked", tag, json.dumps([json.loads(text), "lorajob", "cpu.0"]))
    redis.zadd("unacked_index", {tag: time.time() - seconds_ago})
    return tag


def test_a_job_whose_message_is_gone_is_sent_once_a_lease(
    settings, records, redis, tmp_path, monkeypatch
):
    # A lease that outlasts this test; Redis need not have run for as long.
    reconciler = Reconciler(settings.model_copy(update={"lease_seconds": 50.0}), redis)
    monkeypatch.setattr(reconciler, "_settled", lambda: True)
    job = create(records, tmp_path)
    reconciler.turn()
    assert waiting(redis) == []  # it has not waited for a lease
    grow_old(redis, job)
    reconciler.turn()
    assert waiting(redis) == [("preprocess", job.id)]
    redis.delete(FIRST)
    reconciler.turn()
    assert waiting(redis) == []
    grow_old(redis, job)
    reconciler.turn()
    assert waiting(redis) == [("preprocess", job.id)]


def test_a_job_whose_message_waits_is_left_alone(
    reconciler, records, settings, redis, tmp_path, monkeypatch
):
    jobs = [create(records, tmp_path) for _ in range(3)]
    for job in jobs:
        send(job, settings)
        grow_old(redis, job)
    with monkeypatch.context() as patch:  # there are enough: nothing need be read
        patch.setattr(broker, "deliveries", None)
        patch.setattr(reconciler_module, "SCAN_LEASES", 1e9)
        reconciler.turn()
    lost = json.loads(redis.rpop(FIRST))["headers"]["argsrepr"]
    reconciler.turn()
    found = waiting(redis)
    assert sorted(found) == sorted(("preprocess", job.id) for job in jobs)
    assert found[0][1] in lost  # the one that was gone came last


def test_a_message_too_many_does_not_hide_one_too_few_for_long(
    reconciler, records, settings, redis, tmp_path, monkeypatch
):
    lost, doubled = create(records, tmp_path), create(records, tmp_path)
    for _ in range(2):
        send(doubled, settings)
    grow_old(redis, lost)
    with monkeypatch.context() as patch:
        patch.setattr(reconciler_module, "SCAN_LEASES", 1e9)
        reconciler.turn()
    assert ("preprocess", lost.id) not in waiting(redis)
    wait_for(lambda: reconciler.turn() or ("preprocess", lost.id) in waiting(redis))


def test_a_message_that_a_worker_has_just_taken_is_on_its_way(
    reconciler, records, settings, redis, tmp_path
):
    job = create(records, tmp_path)
    send(job, settings)
    tag = take(redis, seconds_ago=1)
    grow_old(redis, job)
    reconciler.turn()
    assert waiting(redis) == []
    redis.zadd("unacked_index", {tag: time.time() - 30})  # its worker must have died
    grow_old(redis, job)
    reconciler.turn()
    assert waiting(redis) == [("preprocess", job.id)]


def test_a_stage_whose_lease_ran_out_is_sent_again_and_at_last_given_up(
    reconciler, records, redis, tmp_path
):
    job = create(records, tmp_path)
    finish(records, job, "preprocess")
    claim(records, job, "train", lease=0)
    reconciler.turn()
    assert records.load(job.id).stages["train"].state == "running"  # its owner may renew it yet
    reconciler.turn()
    assert waiting(redis) == [("train", job.id)]
    redis.delete(lists_of([queue_name("train", 0)])[1])
    claim(records, job, "train", lease=0)
    reconciler.turn()
    assert records.load(job.id).stages["train"].state == "running"  # the new owner, too
    reconciler.turn()
    assert waiting(redis) == []
    assert records.load(job.id).state == "failed"


def test_a_cancelled_job_whose_worker_died_ends(reconciler, records, redis, tmp_path):
    job = create(records, tmp_path)
    claim(records, job, lease=0.2)
    assert records.cancel(job.id) == "cancelling"
    wait_for(lambda: reconciler.turn() or records.load(job.id).state == "cancelled")
    assert waiting(redis) == []


def test_after_redis_was_away_a_whole_lease_passes_first(
    records, settings, redis, tmp_path, redis_server
):
    patient = settings.model_copy(update={"lease_seconds": 3600.0})
    job = create(records, tmp_path)
    claim(records, job, lease=0)
    Reconciler(patient, redis).turn()  # Redis itself has not been there for an hour
    assert records.load(job.id).stages["preprocess"].state == "running"
    nowhere = settings_for(tmp_path, "redis://127.0.0.1:1/0")
    unlucky = Reconciler(settings, connect(nowhere))
    unlucky.turn()
    unlucky._redis, unlucky._records = redis, records
    unlucky.turn()
    assert records.load(job.id).stages["preprocess"].state == "running"
    wait_for(lambda: unlucky.turn() or records.load(job.id).stages["preprocess"].state == "queued")


@pytest.mark.parametrize(
    ("kind", "why", "error"),
    [
        (
            "disk",
            "/jobs/x: no room left on the disk; make some, then `lorajob retry x`",
            "/jobs/x: no room left on the disk; make some, then `lorajob retry x`",
        ),
        (
            "files",
            "clips.bin is missing",
            "preprocess: given up after 2 attempts in a row without a new checkpoint or result: "
            "clips.bin is missing (cpu@here); no worker of the queue cpu takes work; "
            "cpu@here: LORAJOB_HOME: only 0.00 GB free (cpu@here)",
        ),
    ],
)
def test_a_wait_that_no_worker_serves_leaves_a_full_disk_its_one_line(
    records, redis, settings, tmp_path, kind, why, error
):
    job = create(records, tmp_path)
    redis.zadd("lorajob:workers:cpu", {"cpu@here": redis.time()[0] + 60})
    health.report_fitness(
        redis, "cpu@here", health.Unfit("LORAJOB_HOME: only 0.00 GB free", time.time())
    )
    fault = Fault(kind, first=0.01, longest=0.01, gentle=False, offer=LEASE)
    assert records.fail_retryable(claim(records, job), why, 2, 0, fault) == "later"
    reconciler = Reconciler(settings.model_copy(update={"max_faults": 2}), redis)
    wait_for(lambda: reconciler.turn() or records.load(job.id).over)
    assert records.load(job.id).error == error
    assert records.retry(job.id) == "retried"


def test_one_looks_at_a_time(reconciler, records, redis, tmp_path):
    job = create(records, tmp_path)
    claim(records, job, lease=0)
    with redis.lock(LOCK, timeout=30):
        reconciler.turn()
        assert records.load(job.id).stages["preprocess"].state == "running"
    reconciler.turn()
    reconciler.turn()
    assert records.load(job.id).stages["preprocess"].state == "queued"


def test_what_killed_workers_took_is_dropped_once_its_stage_is_over(
    reconciler, records, settings, redis, tmp_path
):
    done, going = create(records, tmp_path), create(records, tmp_path)
    tags = {}
    for job in (done, going):
        send(job, settings)
        tags[job.id] = take(redis, seconds_ago=100)
    redis.hset("unacked", "odd", "what is this")
    finish(records, done, "preprocess")
    claim(records, going)
    wait_for(lambda: reconciler.turn() or not redis.hexists("unacked", tags[done.id]))
    assert set(redis.hkeys("unacked")) == {tags[going.id], "odd"}
    assert redis.zscore("unacked_index", tags[done.id]) is None


def test_scans_leave_out_damaged_records_and_the_one_set_aside_is_named(records, redis, tmp_path):
    bad, strange, good = (create(records, tmp_path) for _ in range(3))
    redis.hset(f"lorajob:job:{bad.id}", "memory_class", "huge")
    redis.delete(f"lorajob:job:{strange.id}")
    redis.set(f"lorajob:job:{strange.id}", "not a hash")
    assert [job.id for job in records.newest()] == [good.id]
    assert list(records.standings([bad.id, strange.id, good.id])) == [good.id]
    with pytest.raises(RecordError, match=strange.id):
        records.load(strange.id)
    records.set_aside(bad.id, "it is damaged")
    assert records.damaged() == {bad.id: "it is damaged"}
    records.delete(bad.id)
    assert records.damaged() == {}
