"""What kills workers, and what comes of their jobs: real processes, a real Redis, real training."""

import json
import os
import signal
import time
from pathlib import Path

from lorajob.job.jobdir import STAGES, JobDir
from lorajob.worker.records.record import JobRecord
from tests.support.command import run
from tests.support.fleet import (
    LEASE_SECONDS,
    SAVE_STEPS,
    Fleet,
    Worker,
    adapter,
    checkpoints,
    commits,
    end_tree,
    log_lines,
    resumed_at,
    stage_processes,
    trainer,
)
from tests.support.procs import running
from tests.support.service import wait_for


def test_a_worker_that_is_killed_costs_no_committed_step(fleet, expected):
    for number, victim in enumerate(("tree", "parent", "trainer")):
        fleet.staff(cpu=1, gpu=2)
        record = fleet.submit(f"hi-0000001{number}")
        fleet.train_to(record, SAVE_STEPS + 5)
        worker, child = fleet.runner(record), trainer(record)
        tree = worker.tree()
        kill(worker, child, victim)
        done = fleet.wait_until(record, "succeeded")
        assert sorted(commits(done)) == sorted(STAGES)
        assert resumed_at(record) and min(resumed_at(record)) >= SAVE_STEPS
        assert adapter(record.folder) == expected
        assert not stage_processes(record)
        lost = done.ended[1]
        assert (lost.stage, lost.worker.partition("@")[0]) == ("train", worker.name)
        assert lost.step is not None and lost.step > SAVE_STEPS
        if victim != "trainer":
            wait_for(lambda tree=tree: not any(running(pid) for pid in tree))
        status_shows_the_attempt(fleet, done, worker.name, victim)


def status_shows_the_attempt(fleet: Fleet, record: JobRecord, worker: str, victim: str) -> None:
    """Who made it, and why it ended."""
    told = run("status", record.id, env=fleet.environment() | {"COLUMNS": "200"}).stdout
    line = next(line for line in told.splitlines() if line.startswith("train 1"))
    killed, silent = "stage train was ended by SIGKILL", "its worker was not heard of"
    assert worker in line and (killed if victim == "trainer" else silent) in line
    ended = json.loads(run("status", record.id, "--json", env=fleet.environment()).stdout)
    assert [attempt["stage"] for attempt in ended["attempts"]].count("train") == 2


def kill(worker: Worker, child: int | None, victim: str) -> None:
    assert child is not None
    pids = {"tree": worker.tree(), "parent": [worker.pid], "trainer": [child]}[victim]
    worker.signal(signal.SIGKILL, pids)


def test_a_stopped_worker_that_wakes_after_its_lease_is_refused(fleet, expected):
    fleet.staff(cpu=1, gpu=2)
    record = fleet.submit("hi-00000020")
    fleet.train_to(record, SAVE_STEPS + 5)
    sleeper, asleep = fleet.runner(record), trainer(record)
    tree = sleeper.tree()
    sleeper.signal(signal.SIGSTOP, tree)
    wait_for(lambda: fleet.load(record).stages["train"].attempt == 2)
    wait_for(lambda: log_lines(record, "resumed from step"))
    others = [pid for pid in stage_processes(record, "train") if pid != asleep]
    sleeper.signal(signal.SIGSTOP, others)  # the second attempt waits, so that the first could win
    sleeper.signal(signal.SIGCONT, tree)
    wait_for(lambda: asleep is None or not running(asleep))
    sleeper.signal(signal.SIGCONT, others)
    done = fleet.wait_until(record, "succeeded")
    assert sorted(commits(done)) == sorted(STAGES)
    assert [attempt.number for attempt in done.ended if attempt.stage == "train"] == [1, 2]
    assert adapter(record.folder) == expected
    assert {path.name for path in JobDir(Path(record.folder)).checkpoints.iterdir()} == {"2"}


def test_of_two_workers_one_gets_a_stage(fleet, expected):
    fleet.staff(cpu=1, gpu=2)
    record = fleet.new_job("hi-00000030")
    for _ in range(2):
        fleet.send(record)
    done = fleet.wait_until(record, "succeeded")
    assert commits(done) == list(STAGES)
    assert not resumed_at(record)
    assert adapter(record.folder) == expected
    wait_for(fleet.drained)


def test_a_stage_is_not_run_twice_however_soon_the_broker_redelivers(fleet):
    fleet.staff(cpu=1, gpu=1)
    impatient = fleet.start_worker("gpu", app="tests.support.impatient")
    record = fleet.new_job("hi-00000031")
    fleet.hold(record, SAVE_STEPS)
    fleet.send(record)
    fleet.send(record)
    refused = f"{record.id} train is not run by this delivery".encode()
    logs = [fleet.home / f"{worker.name}.log" for worker in fleet.alive("gpu")]
    wait_for(lambda: any(refused in log.read_bytes() for log in logs))
    done = fleet.wait_until(record, "succeeded")
    assert commits(done) == list(STAGES)
    assert [stage.attempts for stage in done.stages.values()] == [1, 1, 1, 1]
    wait_for(fleet.drained, 60)
    assert fleet.load(record) == done
    assert b"visibility_timeout" in (fleet.home / f"{impatient.name}.log").read_bytes()


def test_a_message_that_vanished_is_sent_again(fleet):
    fleet.staff(cpu=1, gpu=1)
    record = fleet.new_job("hi-00000032", real=())
    wait_for(lambda: fleet.load(record).stages["preprocess"].attempts == 1)
    began = fleet.load(record).stages["preprocess"].started_at
    # Some LEASE_SECONDS on a free machine, and 29 s were seen on a busy one.
    assert began is not None and began - record.created_at <= LEASE_SECONDS + 60
    assert commits(fleet.wait_until(record, "succeeded")) == list(STAGES)


def test_a_job_that_always_kills_its_worker_fails_and_the_others_finish(fleet):
    fleet.staff(cpu=1, gpu=2)
    good = [fleet.new_job(f"hi-0000004{number}", "train.epochs=2") for number in range(2)]
    bad = fleet.new_job("hi-00000049")
    for record in (bad, *good):
        fleet.send(record)
    deadline = time.monotonic() + 240
    while not fleet.load(bad).over:
        assert time.monotonic() < deadline
        if (pid := trainer(bad)) is not None:
            fleet.workers[0].signal(signal.SIGKILL, [pid])
        time.sleep(0.1)
    failed = fleet.load(bad)
    assert failed.state == "failed"
    assert failed.error == (
        "train: given up after 3 attempts in a row without a new checkpoint or result; the last "
        "one: stage train was ended by SIGKILL, as a machine out of memory does; see log/train.log"
    )
    assert [attempt.stage for attempt in failed.ended].count("train") == 3
    for record in good:
        fleet.wait_until(record, "succeeded")


def test_a_worker_told_to_stop_saves_and_another_goes_on(fleet, expected):
    fleet.staff(cpu=1, gpu=2)
    records = [fleet.submit(f"hi-0000005{number}") for number in range(2)]
    for record in records:
        fleet.train_to(record, 5)
    workers = [fleet.runner(record) for record in records]
    for worker, how in zip(workers, (signal.SIGTERM, signal.SIGQUIT), strict=True):
        worker.signal(how)
    for worker in workers:
        wait_for(lambda worker=worker: worker.process.poll() is not None, 40)
    for record in records:
        told = fleet.load(record)
        assert told.stages["train"].state == "queued"
        assert told.stages["convert"].state == "waiting"
        assert told.ended[-1].why == "its worker was told to stop"
        assert log_lines(record, "checkpoint ")
    fleet.staff(cpu=1, gpu=2)
    for record in records:
        done = fleet.wait_until(record, "succeeded")
        assert resumed_at(record) and min(resumed_at(record)) >= 5
        assert adapter(record.folder) == expected
        assert sorted(commits(done)) == sorted(STAGES)


def test_a_stage_that_makes_no_step_is_stopped_and_tried_again(fleet):
    fleet.staff(cpu=1, gpu=0)
    settings = fleet.settings
    # Before its first step a stage has four times as long, which must do for its start.
    fleet.settings = settings.model_copy(update={"stall_timeout": 15.0, "grace_seconds": 1.0})
    worker = fleet.start_worker("gpu")
    fleet.settings = settings
    record = fleet.submit("hi-00000060", "train.epochs=20")
    wait_for(lambda: fleet.step(record) >= SAVE_STEPS + 2)
    stuck = trainer(record)
    assert stuck is not None
    before = fleet.load(record).stages["train"].attempts
    os.kill(stuck, signal.SIGSTOP)
    wait_for(lambda: fleet.load(record).stages["train"].attempts > before)
    assert not running(stuck)
    assert fleet.load(record).ended[-1].why == "no step for 15 s (LORAJOB_STALL_TIMEOUT)"
    fleet.wait_until(record, "succeeded")
    assert min(resumed_at(record)) >= SAVE_STEPS
    end_tree(worker)


def test_a_broken_checkpoint_is_set_aside_and_the_one_before_used(fleet, expected):
    fleet.staff(cpu=1, gpu=2)
    first = fleet.submit("hi-00000070")
    fleet.train_to(first, 2 * SAVE_STEPS + 5)
    fleet.jobs.cancel(first.id)
    fleet.wait_until(first, "cancelled")
    records = {damage: fleet.copy_job(first, f"hi-0000007{n}") for n, damage in DAMAGES}
    before, newest = (path.name for path in sorted(checkpoints(first), key=step_of))
    for damage, record in records.items():
        folder = next(path for path in checkpoints(record) if path.name == newest)
        break_checkpoint(folder, damage)
        fleet.jobs.retry(record.id)
    for record in records.values():
        fleet.wait_until(record, "succeeded", 120)
        assert [f"step-{step}" for step in resumed_at(record)] == [before]
        assert log_lines(record, f"{newest} is broken and set aside as")
        assert adapter(record.folder) == expected


DAMAGES = tuple(enumerate(("truncated", "corrupted", "without manifest"), start=1))


def break_checkpoint(folder: Path, damage: str) -> None:
    file = folder / "optimizer.safetensors"
    data = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(data[:-100])
    elif damage == "corrupted":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        (folder / "manifest.json").unlink()


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
