"""What a thousand submissions and ten thousand records may cost, held at a tenth of that.

The targets are those of bench/records.py, which measures the whole. Seconds are processor time, of
Redis too, since the tests share their cores. A machine that is slower than the bench's may take as
much longer as it takes for other work.
"""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.records import ended
from redis import Redis

from lorajob.spec import JobSpec
from lorajob.tasks import broker
from lorajob.tasks.batches import submit_batch
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.listing import JobFilter, list_jobs
from lorajob.tasks.reconciler import Reconciler
from lorajob.worker.queues import all_queues, lists_of
from lorajob.worker.records.orders import CHANGED
from lorajob.worker.settings import Settings
from tests.support.command import environment, run, url_of
from tests.support.service import wait_for

SHARE = 10
JOBS, SUBMITTED = 10_000 // SHARE, 1_000 // SHARE
SUBMIT_SECONDS, TURN_SECONDS = 10 / SHARE, 1 / SHARE
WORK_SECONDS = 0.06  # of the work of `slowness` on the bench's machine
MEMORY_BYTES = 100e6 / SHARE
SHOWN = 50
LEASE_SECONDS = 0.5


@pytest.fixture
def jobs(redis_server: Settings, redis: Redis, tmp_path: Path) -> Jobs:
    changes = {"artifacts": tmp_path / "jobs", "home": tmp_path, "lease_seconds": LEASE_SECONDS}
    return Jobs(redis_server.model_copy(update=changes))


@pytest.fixture
def specs(tmp_path: Path) -> list[JobSpec]:
    manifest = tmp_path / "clips.tsv"
    manifest.write_text("audio\ttext\na.wav\tनमस्ते\n", "utf-8")
    return [JobSpec(language="hi", corpus=str(manifest), seed=seed) for seed in range(JOBS)]


def spent(redis: Redis, act: Callable[[], object]) -> float:
    """Processor seconds of this process, its ended children and Redis, for one call."""

    def total() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        server = redis.info("cpu")
        ours = time.process_time() + children.ru_utime + children.ru_stime
        return ours + server["used_cpu_user"] + server["used_cpu_sys"]

    before = total()
    act()
    return total() - before


def slowness() -> float:
    """How many times as long as on the bench's machine this one takes, at least 1."""
    taken = []
    for _ in range(3):
        began = time.process_time()
        for number in range(4000):
            json.loads(json.dumps({str(key): [key, str(number)] for key in range(20)}))
        taken.append(time.process_time() - began)
    return max(1.0, *(it / WORK_SECONDS for it in taken))


def reads(redis: Redis) -> int:
    """How many hashes were read whole since Redis started."""
    return redis.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]


def test_a_thousand_submissions_and_ten_thousand_records_keep_within_their_bounds(
    jobs: Jobs, specs: list[JobSpec], redis: Redis, redis_server: Settings, tmp_path: Path
) -> None:
    empty = redis.info("memory")["used_memory"]
    submit_batch(jobs, specs[:1])  # loads Celery, once a command
    rest = specs[1 : SUBMITTED + 1]
    assert spent(redis, lambda: submit_batch(jobs, rest)) < SUBMIT_SECONDS * slowness()
    for spec in specs[SUBMITTED + 1 :]:
        ended(jobs, spec)
    assert len(jobs.newest(2 * JOBS)) == JOBS
    assert redis.info("memory")["used_memory"] - empty < MEMORY_BYTES

    env = environment(redis_url=url_of(redis_server), home=tmp_path, artifacts=tmp_path / "jobs")
    before = reads(redis)
    run("status", env=env).check_returncode()
    # The records that it shows, however many there are, and some hashes of the fleet.
    assert SHOWN <= reads(redis) - before < SHOWN + 10

    # Sorted lists, too, once the jobs have their places; then a changed job is read once more.
    assert len(list_jobs(jobs, JobFilter(), 1, "wer")) == 1
    for changed in (0, 1):
        before = reads(redis)
        assert len(list_jobs(jobs, JobFilter(), SHOWN, "wer")) == SHOWN
        assert reads(redis) - before == SHOWN + changed
        redis.sadd(CHANGED, jobs.records.ids()[0])

    wait_for(lambda: redis.info("server")["uptime_in_seconds"] > LEASE_SECONDS)
    turns = []
    for _ in range(3):
        wait_for(lambda: len(jobs.records.overdue(LEASE_SECONDS, JOBS)) == SUBMITTED + 1)
        redis.rpop(next(name for name in lists_of(all_queues()) if redis.exists(name)))
        # it reads all messages, since one is gone
        turns.append(spent(redis, Reconciler(jobs.settings, redis).turn))
        assert broker.waiting(redis) == SUBMITTED + 1
    assert min(turns) < TURN_SECONDS * slowness()
