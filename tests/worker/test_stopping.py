"""Signals that stop a worker: from a process manager to all its processes, or from a terminal."""

import os
import signal

import pytest

from tests.support.fleet import stage_processes
from tests.support.procs import running
from tests.support.service import Gate, wait_for


def to_every_process(worker) -> None:
    """As systemd does by default."""
    worker.signal(signal.SIGTERM, worker.tree())


def to_its_group(worker) -> None:
    """As a terminal that closes does."""
    os.killpg(worker.pid, signal.SIGHUP)


@pytest.mark.parametrize("stop", [to_every_process, to_its_group])
def test_a_worker_whose_every_process_is_told_to_stop_gives_its_stage_back(fleet, stop):
    settings = fleet.settings
    fleet.settings = settings.model_copy(update={"grace_seconds": 1.0})
    fleet.staff(cpu=1, gpu=0)
    fleet.staff(cpu=1, gpu=1)
    fleet.settings = settings
    (worker,) = fleet.alive("gpu")
    name = "hi-00000600" if stop is to_its_group else "hi-00000601"
    record = fleet.new_job(name)
    with Gate(record, "train"):
        fleet.send(record)
        wait_for(lambda: stage_processes(record, "train"), 60)
        tree = worker.tree()
        stop(worker)
        wait_for(lambda: worker.process.poll() is not None, 60)
        assert worker.process.returncode == 0
        wait_for(lambda: not any(running(pid) for pid in tree))
    told = fleet.load(record)
    assert told.stages["train"].state == "queued"
    assert told.stages["train"].losses == 0
    assert told.ended[-1].why == "its worker was told to stop"
    assert fleet.jobs.cancel(record.id) == "cancelled"
