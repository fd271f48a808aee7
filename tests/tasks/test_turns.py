"""Whose turn it is: in which lanes jobs wait, and in what order they are taken, on a real Redis."""

from pathlib import Path

import pytest
from bench.autoscaling import HOUR, POLICIES, Simulation, arrivals, p95
from redis import Redis

from lorajob.job.jobdir import STAGES
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.tasks.batches import submit_batch
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.rebuild import rebuild
from lorajob.worker.app import Application, configuration
from lorajob.worker.connect import redis_url
from lorajob.worker.queues import LANES, lanes_of
from lorajob.worker.settings import Settings
from tests.support.batches import specs
from tests.support.records import claim


def taken(settings: Settings, redis: Redis, queues: list[str], count: int) -> list[str]:
    """The jobs whose messages one consumer gets, in its order, as a worker's connection does."""
    application = Application("turns", set_as_current=False)
    application.conf.update(configuration(redis_url(settings)))
    jobs: list[str] = []

    def take(body, message):
        jobs.append(body[0][0])
        message.ack()

    with application.connection_for_read() as connection:
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        bound = [application.amqp.queues[name] for name in queues]
        with application.amqp.Consumer(channel, bound, callbacks=[take], accept=["json"]):
            while len(jobs) < count:
                connection.drain_events(timeout=120)
    return jobs


def test_a_batch_of_a_hundred_does_not_starve_a_single_job(jobs, data, redis):
    many = [
        spec.model_copy(update={"seed": seed}) for seed in range(100) for spec in specs(data, "hi")
    ]
    batch = submit_batch(jobs, many).batch
    single = jobs.submit(specs(data, "ta")[0])
    assert single not in batch.jobs
    order = taken(jobs.settings, redis, lanes_of(["cpu"]), 101)
    assert order.index(single) <= 2
    assert sorted(order) == sorted([*batch.jobs, single])


def test_two_batches_take_turns(jobs, data, redis):
    first, _ = (
        submit_batch(jobs, [specs(data, code, seed=seed)[0] for seed in range(20)]).batch
        for code in ("hi", "mr")
    )
    order = taken(jobs.settings, redis, lanes_of(["cpu"]), 40)
    for done in range(4, 41, 4):
        share = sum(job in first.jobs for job in order[:done])
        assert abs(share - done / 2) <= 1


def test_an_urgent_job_goes_before_all_others(jobs, data, redis):
    submit_batch(jobs, specs(data, "hi", "mr", "ta"))
    urgent = jobs.submit(specs(data, "ta")[0], "high")
    assert taken(jobs.settings, redis, lanes_of(["cpu"]), 4)[0] == urgent


def of_user(jobs: Jobs, name: str) -> Jobs:
    return Jobs(jobs.settings.model_copy(update={"user": name}))


def many(data: Path, count: int) -> list[JobSpec]:
    return specs(data, "hi") * count


def finish(jobs: Jobs, job_id: str) -> None:
    for stage in STAGES:
        done = claim(jobs.records, jobs.records.load(job_id), stage)
        assert jobs.records.commit(done, StageResult()) == "settled"


def open_jobs(redis: Redis) -> dict[str, set[str]]:
    return {name: redis.smembers(name) for name in redis.keys("lorajob:open:*")}


def test_a_user_of_last_week_does_not_come_last_behind_the_batches_of_others(jobs, data, redis):
    alice, bob = of_user(jobs, "alice"), of_user(jobs, "bob")
    finish(alice, alice.submit(specs(data, "ta")[0]))
    redis.delete(*lanes_of(["cpu"]), "unacked")
    for number in range(LANES - 1):
        submit_batch(bob, many(data, 5), salt=str(number))
    single = alice.submit(specs(data, "ta")[0])
    order = taken(jobs.settings, redis, lanes_of(["cpu"]), 5 * (LANES - 1) + 1)
    assert order.index(single) <= LANES


def test_a_lane_whose_jobs_run_or_are_at_a_later_stage_is_no_empty_one(jobs, data, redis):
    alice, bob = of_user(jobs, "alice"), of_user(jobs, "bob")
    job = alice.submit(specs(data, "ta")[0])
    taken(jobs.settings, redis, lanes_of(["cpu"]), 1)
    running = claim(jobs.records, jobs.records.load(job), "preprocess")
    batches = [submit_batch(bob, many(data, 2), salt="running").batch]
    jobs.records.commit(running, StageResult())
    batches += [submit_batch(bob, many(data, 2), salt=f"{n}").batch for n in range(LANES - 2)]
    lanes = [jobs.records.load(batch.jobs[0]).lane for batch in batches]
    assert len({jobs.records.load(job).lane, *lanes}) == LANES
    again = alice.submit(specs(data, "ta")[0])
    assert jobs.records.load(again).lane == jobs.records.load(job).lane


def test_jobs_that_are_over_hold_no_lane_and_those_retried_or_rebuilt_do(jobs, data, redis):
    ended, cancelled, withdrawn = (jobs.submit(spec) for spec in many(data, 3))
    (held,) = {frozenset(jobs) for jobs in open_jobs(redis).values()}
    assert held == {ended, cancelled, withdrawn}
    finish(jobs, ended)
    jobs.cancel(cancelled)
    jobs.records.delete(withdrawn)
    assert open_jobs(redis) == {}
    jobs.retry(cancelled)
    assert set.union(*open_jobs(redis).values()) == {cancelled}
    redis.flushall()
    rebuild(jobs.settings)
    assert {cancelled, withdrawn} <= set.union(*open_jobs(redis).values())  # both have folders


def test_a_retried_job_gets_the_emptiest_lane_of_now(jobs, data, redis):
    alice, bob = of_user(jobs, "alice"), of_user(jobs, "bob")
    job = alice.submit(specs(data, "ta")[0])
    alice.cancel(job)
    first = alice.records.load(job).lane
    batch = submit_batch(bob, many(data, 2)).batch
    assert jobs.records.load(batch.jobs[0]).lane == first  # it was empty again
    alice.retry(job)
    assert alice.records.load(job).lane != first


@pytest.mark.parametrize("seed", range(1, 4))
def test_single_jobs_wait_minutes_where_too_few_workers_let_batches_wait_for_hours(seed):
    done = Simulation(arrivals(seed), POLICIES["20 workers, always"], seed).run()
    waits = {True: [], False: []}
    for job in done.jobs:
        waits[job.share.startswith("user")].append(sum(job.waits))
    assert p95(waits[False]) > 5 * HOUR
    assert p95(waits[True]) < HOUR / 3
    assert max(waits[True]) < 2 * HOUR
