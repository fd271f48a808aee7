"""Two Redis over one artifact folder: neither takes the other's jobs without being told to."""

import json
from types import SimpleNamespace

import pytest
from redis import Redis

from lorajob.cli.main import main
from lorajob.tasks.attempt import ProgressMirror
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.rebuild import rebuild
from lorajob.worker.artifacts.lookup import find_job
from lorajob.worker.connect import connect
from lorajob.worker.records.origin import KEY, redis_address
from lorajob.worker.records.records import Claim
from lorajob.worker.settings import Settings
from tests.support.batches import specs
from tests.support.command import url_of
from tests.support.service import own_redis, settings_for, wait_for

QUEUED, RUNNING = "hi-0000000a", "hi-0000000b"
LEASE = 900.0


@pytest.fixture(scope="module")
def second_server(tmp_path_factory):
    with own_redis(tmp_path_factory.mktemp("second-redis")) as settings:
        yield settings


@pytest.fixture
def second(second_server: Settings, jobs: Jobs):
    """The jobs of another Redis over the same folder, empty before."""
    connect(second_server).flushall()
    return Jobs(second_server.model_copy(update={"artifacts": jobs.settings.artifacts}))


def queue(jobs: Jobs, data, job_id: str) -> None:
    (spec,) = specs(data, "hi")
    jobs.queue(jobs.new_record(spec, job_id), spec)


def run(jobs: Jobs, job_id: str, lease: float = LEASE) -> Claim:
    claim = jobs.records.claim(job_id, "preprocess", "cpu@first", lease, 3)
    assert isinstance(claim, Claim)
    return claim


def as_user_of(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAJOB_REDIS_URL", url_of(jobs.settings))
    monkeypatch.setenv("LORAJOB_ARTIFACTS", str(jobs.settings.artifacts))


def test_rebuild_on_a_second_redis_leaves_the_first_ones_jobs_to_it(
    jobs, second, data, monkeypatch, capsys
):
    queue(jobs, data, QUEUED)
    queue(jobs, data, RUNNING)
    claim = run(jobs, RUNNING)
    as_user_of(second, monkeypatch)
    for _ in range(2):
        assert main(["rebuild"]) == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err == (
            f"lorajob: not rebuilt: {QUEUED}, {RUNNING}: of another service, with another Redis; "
            "if that one has ended for good, `lorajob rebuild --take-over` takes its jobs\n"
        )
        assert second.records.ids() == []
        queue(second, data, "mr-0000000c")  # the second Redis has an id of its own from now on
        second.records.delete("mr-0000000c")
        find_job("mr-0000000c", second.settings).remove()
    assert jobs.records.touch(claim, None, LEASE) == "held"
    assert main(["rebuild", "--take-over"]) == 0
    assert capsys.readouterr().out.split() == [QUEUED, RUNNING]
    taken = second.records.load(RUNNING)
    assert taken.service == connect(second.settings).get(KEY) != jobs.records.load(RUNNING).service
    assert taken.stages["preprocess"].attempt > claim.attempt
    assert rebuild(jobs.settings).foreign == ()  # they have records there


def test_a_redis_that_lost_its_data_takes_its_own_jobs_back(jobs, redis: Redis, data):
    queue(jobs, data, QUEUED)
    lost = redis.get(KEY)
    redis.flushall()
    rebuilt = rebuild(jobs.settings)
    assert (rebuilt.jobs, rebuilt.foreign, rebuilt.leased) == ((QUEUED,), (), ())
    written = json.loads((jobs.settings.jobs / QUEUED / "job.json").read_text("utf-8"))
    assert written["service"] == redis.get(KEY) != lost


def test_a_job_whose_lease_is_recent_is_left_until_it_has_run_out(jobs, redis, data):
    queue(jobs, data, RUNNING)
    run(jobs, RUNNING, lease=0.5)
    redis.flushall()
    assert rebuild(jobs.settings).leased == (RUNNING,)
    hasty = jobs.settings.model_copy(update={"lease_seconds": 0.5})
    wait_for(lambda: rebuild(hasty).jobs == (RUNNING,))


def test_a_worker_that_stops_because_its_record_is_missing_ends_the_lease(jobs, redis, data):
    queue(jobs, data, RUNNING)
    claim = run(jobs, RUNNING)
    redis.flushall()
    find_job(RUNNING, jobs.settings).end_lease(claim)
    assert rebuild(jobs.settings).jobs == (RUNNING,)


def test_job_json_has_the_lease_of_a_stage_that_runs(jobs, data):
    queue(jobs, data, RUNNING)
    claim = run(jobs, RUNNING, lease=10)
    path = jobs.settings.jobs / RUNNING / "job.json"

    def lease() -> float:
        return json.loads(path.read_text("utf-8"))["stages"]["preprocess"]["lease"]

    before = lease()
    task = SimpleNamespace(app=None, request=None)
    with ProgressMirror(task, RUNNING, "hi", "preprocess", jobs.records, 0.3):
        jobs.records.touch(claim, None, LEASE)
        wait_for(lambda: lease() > before + 100)


def test_a_loopback_address_is_of_one_machine(tmp_path, monkeypatch):
    def address(url: str | None) -> str:
        return redis_address(settings_for(tmp_path, url))

    monkeypatch.setattr("socket.gethostname", lambda: "first")
    assert address("redis://:secret@redis.example.org/2") == "redis.example.org:6379/2"
    assert address("redis://:secret@localhost:7000") == "first localhost:7000/0"
    assert address("redis://127.0.0.1:7000/0") == "first 127.0.0.1:7000/0"
    assert address(None) == f"first {tmp_path}"
    sentinels = "sentinel://:secret@b:1,a:26379/0?master=main"
    assert address(sentinels) == "a:26379,b:1/0 main"
