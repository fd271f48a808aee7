"""Where a job goes that ran out of a card's memory: to a larger card, if there is one."""

import json
import time
from dataclasses import asdict

import pytest
from celery.exceptions import Ignore

from lorajob.job.results import StageResult
from lorajob.tasks.stages import settle
from lorajob.worker.heartbeats import HERE, VERSIONS
from lorajob.worker.queues import classes_of, lists_of, queue_name
from lorajob.worker.supervision.outcome import Failed
from tests.support.batches import specs
from tests.support.command import run
from tests.support.records import LEASE, LOSSES

OUT_OF_MEMORY = Failed("memory", "no memory is left on the GPU")


def serve(redis, name: str, card_gb: float) -> None:
    redis.hset(VERSIONS, name, json.dumps(asdict(HERE)))
    for served in classes_of("gpu", card_gb):
        redis.zadd(f"lorajob:workers:{served}", {name: time.time() + 600})


def run_out(jobs, job: str, stage: str, worker: str):
    """Claim the stage as that worker, run out of memory; the record after it."""
    claim = jobs.records.claim(job, stage, worker, LEASE, LOSSES)
    with pytest.raises(Ignore, match="queued"):
        settle(jobs.records, claim, OUT_OF_MEMORY, worker, jobs.settings)
    return jobs.records.load(job)


@pytest.fixture
def job(jobs, data) -> str:
    """A job whose base model's name tells no size, and whose clips are read."""
    made = jobs.submit(specs(data, "hi", base_model="acme/hindi-asr")[0])
    claim = jobs.records.claim(made, "preprocess", "cpu-1@a", LEASE, LOSSES)
    assert jobs.records.commit(claim, StageResult()) == "settled"
    assert jobs.records.load(made).memory_class is None
    return made


def test_out_of_memory_a_job_goes_to_the_next_larger_card_that_is_there(jobs, redis, job, env):
    for number, card_gb in enumerate((5, 10, 25)):
        serve(redis, f"gpu-{number}@a", card_gb)
    record = run_out(jobs, job, "train", "gpu-0@a")
    assert record.memory_class == 6
    assert redis.llen(lists_of([queue_name("train", record.lane, 6)])[1]) == 1
    assert "one of 2 workers of the queue gpu6" in run("status", job, env=env).stdout
    assert run_out(jobs, job, "train", "gpu-1@a").memory_class == 12
    redis.zrem("lorajob:workers:gpu12", "gpu-2@a")
    told = run("status", job, env=env).stdout
    assert "a worker of the queue gpu12, with a card of 12 GB or more; none is up" in told


def test_out_of_memory_on_the_largest_card_there_is_it_may_find_room_on_it_again(jobs, redis, job):
    serve(redis, "gpu-0@a", 5)
    serve(redis, "gpu-1@a", 25)
    assert run_out(jobs, job, "train", "gpu-1@a").memory_class is None


def test_a_cpu_without_memory_asks_for_no_card(jobs, redis, data):
    serve(redis, "gpu-1@a", 25)
    made = jobs.submit(specs(data, "hi")[0])
    assert run_out(jobs, made, "preprocess", "cpu-1@a").memory_class == 4
