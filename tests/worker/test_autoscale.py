"""How many workers there should be, and a scaler that starts real ones and lets them go."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.autoscaling import MEDIAN_SECONDS, Policy, Simulation, arrivals, single_behind_batch

from lorajob.job.jobdir import STAGES
from lorajob.tasks.broker import send
from lorajob.worker.connect import connect
from lorajob.worker.heartbeats import living
from lorajob.worker.machine.autoscale import Demand, Scaler, decide, demand, least_used
from lorajob.worker.machine.gpus import Pin
from lorajob.worker.records.record import StageRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import environment, finished, job_record, run, start, url_of
from tests.support.procs import descendants, running, sessions
from tests.support.service import Gate, new_job, wait_for

WAIT_SECONDS = 90
ALL_BUT_TRAIN = ("preprocess", "evaluate", "convert")


def test_work_brings_a_worker_for_each_job_at_once_within_the_limits():
    assert decide(7, 1, 0, 50) == 8
    assert decide(70, 1, 0, 50) == 50
    assert decide(0, 0, 2, 50) == 2
    assert decide(0, 0, 0, 50) == 0


def test_a_worker_goes_to_the_card_with_the_fewest_that_holds_its_job():
    small, large = Pin("GPU-1", 24.2), Pin("GPU-2", 85.9)
    assert least_used([small, large], [], 0, 3) == small
    assert least_used([small, large], [small], 0, 3) == large
    assert least_used([small, large], [large, large], 48, 3) == large
    assert least_used([small, large], [large, large], 48, 2) is None


@pytest.mark.parametrize("seed", range(5))
def test_a_single_job_waits_a_few_turns_behind_a_batch_of_a_hundred(seed):
    turn = MEDIAN_SECONDS["train"]
    assert sum(single_behind_batch(seed)) < 2 * turn
    assert sum(single_behind_batch(seed, lanes=1)) > 10 * turn
    assert sum(single_behind_batch(seed, 1, "high")) < 2 * turn


def test_in_the_simulation_every_job_ends_and_few_workers_idle():
    jobs = arrivals(seed=2)
    done = Simulation(jobs, Policy(0, 50), seed=2).run()
    work = sum(sum(job.seconds[1:3]) for job in jobs)
    assert {job.stage for job in jobs} == {len(STAGES)}
    assert work <= done.busy < 1.05 * work  # what failures cost
    assert done.busy > 0.9 * done.paid
    again = Simulation(arrivals(seed=2), Policy(0, 50), seed=2).run()
    assert (again.busy, again.paid, again.last) == (done.busy, done.paid, done.last)


@pytest.fixture
def records(redis_server: Settings) -> Iterator[Records]:
    with connect(redis_server) as client:
        client.flushall()
        yield Records(client)


def test_demand_is_what_this_kind_can_run_however_many_wait_for_another(
    redis_server, records, tmp_path
):
    for number in range(450):
        records.create(job_record(tmp_path, f"hi-{number:08x}"))
        if number in (3, 300):
            changes = {"stages": finished("preprocess") | {"train": StageRecord(state="queued")}}
            size = {"memory_class": 48} if number == 3 else {}
            records.create(job_record(tmp_path, f"mr-{number:08x}", **changes, **size))
    stages = finished("preprocess") | {
        "train": StageRecord(state="running", worker="gpu-1@here", attempt=1, owner="x", lease=9e9)
    }
    records.create(job_record(tmp_path, state="running", stages=stages))
    with connect(redis_server) as redis:
        assert demand(redis, "gpu", 50) == Demand((0, 48), ("gpu-1",))
        assert demand(redis, "gpu", 50, largest_gb=24.2) == Demand((0,), ("gpu-1",))
        assert demand(redis, "cpu", 20) == Demand((0,) * 20, ())


@pytest.fixture
def scaler(redis_server: Settings, records: Records, tmp_path: Path) -> Iterator[object]:
    """`lorajob autoscale ARGS`; nothing of it outlives the test."""
    env = environment(redis_url=url_of(redis_server), home=redis_server.home)
    env |= {"LORAJOB_GRACE_SECONDS": "5"}
    begun: list[subprocess.Popen[str]] = []

    def begin(*args: str) -> subprocess.Popen[str]:
        with (tmp_path / "scaler.log").open("w") as log:
            begun.append(start("autoscale", *args, env=env, stdout=log, stderr=log))
        return begun[-1]

    yield begin
    for process in begun:
        for pid in descendants(process.pid) if process.poll() is None else []:
            if running(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=240)


def workers_of(scaler: subprocess.Popen[str]) -> list[int]:
    return sessions(scaler.pid)


def test_workers_come_with_the_work_and_go_after_it_with_no_stage_interrupted(
    redis_server, records, scaler
):
    names = [f"hi-0000a5c{number}" for number in range(3)]
    with connect(redis_server) as redis:
        process = scaler("--min", "0", "--max", "2", "--gpus", "none", "--idle", "3")
        jobs = [new_job(redis_server, records, name, ALL_BUT_TRAIN) for name in names]
        gates = [Gate(job, "train") for job in jobs]
        for name in names:  # as if preprocess had run
            redis.hset(f"lorajob:job:{name}", "preprocess.state", "succeeded")
            redis.hset(f"lorajob:job:{name}", "train.state", "queued")
        for name in names:
            send(records.load(name), redis_server)

        def trains():
            return [records.load(name).stages["train"] for name in names]

        wait_for(lambda: sum(t.state == "running" for t in trains()) == 2, WAIT_SECONDS)
        wait_for(lambda: len(living(redis, "gpu")) == 2)
        for gate, train in zip(gates, trains(), strict=True):
            if train.state == "running":
                gate.open()
        wait_for(lambda: sum(t.state == "succeeded" for t in trains()) == 2, WAIT_SECONDS)
        wait_for(lambda: any(t.state == "running" for t in trains()), WAIT_SECONDS)
        wait_for(lambda: len(living(redis, "gpu")) == 1, WAIT_SECONDS)  # the idle one
        assert any(t.state == "running" for t in trains())
        for gate, train in zip(gates, trains(), strict=True):
            if train.state == "running":
                gate.open()
        wait_for(lambda: all(t.state == "succeeded" for t in trains()), WAIT_SECONDS)
        wait_for(lambda: descendants(process.pid) == [process.pid], WAIT_SECONDS)
        assert [train.attempts for train in trains()] == [1, 1, 1]
        assert living(redis, "gpu") == []
        evaluated = [records.load(name).stages["evaluate"].attempts for name in names]
        assert evaluated == [1, 1, 1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 0


def test_a_scaler_told_to_stop_gives_back_what_its_workers_run(redis_server, records, scaler):
    with connect(redis_server) as redis:
        job = new_job(redis_server, records, "hi-0000a5cb", ALL_BUT_TRAIN)
        redis.hset(f"lorajob:job:{job.id}", "preprocess.state", "succeeded")
        redis.hset(f"lorajob:job:{job.id}", "train.state", "queued")
        with Gate(job, "train"):
            process = scaler("--min", "1", "--max", "2", "--gpus", "none")
            wait_for(lambda: living(redis, "gpu"), WAIT_SECONDS)
            assert len(workers_of(process)) >= 1
            send(records.load(job.id), redis_server)
            wait_for(lambda: records.load(job.id).stages["train"].state == "running", WAIT_SECONDS)
            family = descendants(process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=240) == 0
        wait_for(lambda: not any(running(pid) for pid in family))
        assert records.load(job.id).stages["train"].state == "queued"
        assert records.load(job.id).ended[-1].why == "its worker was told to stop"


def test_wrong_limits_are_one_line(tmp_path):
    env = environment(redis_url="redis://127.0.0.1:1/0", home=tmp_path)
    done = run("autoscale", "--min", "3", "--max", "2", env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--min 3 is above --max 2" in done.stderr
    done = run("autoscale", "--max", "2", "--gpus", "all", env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--gpus all: one worker has all GPUs" in done.stderr
    done = run("autoscale", "--max", "2", "--gpus", "", env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "gpus: '' is unknown" in done.stderr


@pytest.fixture
def shares() -> list[str]:
    """How many stages share the machine, as each worker is told."""
    return []


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch, shares: list[str]) -> Iterator[list[str]]:
    """The cards that workers are started on, which are processes that do nothing."""
    begun: list[subprocess.Popen[bytes]] = []
    cards: list[str] = []

    def start_sleeper(command, *, env, log, death_signal):
        begun.append(subprocess.Popen(["sleep", "600"]))
        cards.append(env["CUDA_VISIBLE_DEVICES"])
        shares.append(env["LORAJOB_STAGES_HERE"])
        return begun[-1]

    monkeypatch.setattr("lorajob.worker.machine.autoscale.spawn", start_sleeper)
    yield cards
    for process in begun:
        process.kill()
        process.wait()


def trains(records: Records, folder: Path, *sizes: int | None) -> None:
    """Jobs that wait for a card of so many GB, the first one the newest."""
    for number, size in reversed(list(enumerate(sizes))):
        stages = finished("preprocess") | {"train": StageRecord(state="queued")}
        job_id = f"hi-{number:08x}"
        records.create(job_record(folder, job_id, memory_class=size, stages=stages))


SMALL, LARGE = Pin("GPU-12", 12.9), Pin("GPU-80", 85.9)


@pytest.mark.parametrize(
    ("sizes", "limits", "cards"),
    [
        ((80, 80), (0, 2), ["GPU-80"]),  # the second one would lack memory beside the first
        ((80, 80, None), (0, 2), ["GPU-80", "GPU-12"]),
        ((None, 80), (0, 1), ["GPU-80"]),  # one worker, for whatever comes
        ((None, None, None), (0, 2), ["GPU-12", "GPU-80"]),
        ((None,) * 5, (0, 4), ["GPU-12", "GPU-80", "GPU-12", "GPU-80"]),  # they were to share
    ],
)
def test_no_card_gets_a_second_worker_while_one_each_is_enough(
    redis_server, records, tmp_path, sleepers, shares, sizes, limits, cards
):
    trains(records, tmp_path, *sizes)
    scaler = Scaler("gpu", redis_server, *limits, [SMALL, LARGE], 120)
    with connect(redis_server) as redis:
        scaler.look(redis)
        scaler.look(redis)
    assert sleepers == cards
    assert set(shares) == {str(limits[1])}  # also if the others start later


def test_an_idle_worker_on_a_card_too_small_keeps_no_job_waiting(
    redis_server, records, tmp_path, sleepers
):
    scaler = Scaler("gpu", redis_server, 1, 2, [SMALL, LARGE], 120)
    with connect(redis_server) as redis:
        scaler.look(redis)
        assert sleepers == ["GPU-12"]  # of the least
        trains(records, tmp_path, 80)
        scaler.look(redis)
        assert sleepers == ["GPU-12", "GPU-80"]
        scaler.look(redis)
    assert len(sleepers) == 2


def test_a_machine_that_starts_no_process_now_keeps_the_workers_it_has(
    redis_server, records, tmp_path, sleepers, monkeypatch
):
    def refuse(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    scaler = Scaler("gpu", redis_server, 0, 2, [SMALL, LARGE], 120)
    with connect(redis_server) as redis:
        trains(records, tmp_path, None)
        scaler.look(redis)
        trains(records, tmp_path, None, None)
        with monkeypatch.context() as patched:
            patched.setattr("lorajob.worker.machine.autoscale.spawn", refuse)
            patched.setattr(
                "lorajob.worker.machine.autoscale.backoff", lambda failures: 0.1 * failures
            )
            scaler.look(redis)
        assert len(sleepers) == 1
        wait_for(lambda: (scaler.look(redis), len(sleepers) == 2)[1])
