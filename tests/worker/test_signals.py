"""A worker that is told to stop, however its processes hear of it, saves and loses nothing."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lorajob.tasks.broker import send
from lorajob.worker.connect import connect
from lorajob.worker.heartbeats import living
from lorajob.worker.machine.launch import service_environment, worker_command
from lorajob.worker.machine.processes import lives
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Records
from lorajob.worker.stack.info import StackInfo
from tests.support.fleet import Fleet, Worker, checkpoints
from tests.support.procs import descendants, running
from tests.support.service import Gate, new_job, settings_for, wait_for

pytestmark = pytest.mark.slow


def to_the_group(worker: Worker) -> None:
    os.killpg(worker.pid, signal.SIGTERM)


def to_each_process(worker: Worker) -> None:
    for pid in reversed(worker.tree()):  # the stage hears of it first
        worker.signal(signal.SIGTERM, [pid])


def hangup_to_each_process(worker: Worker) -> None:
    worker.signal(signal.SIGHUP, worker.tree())


WAYS = [to_the_group, to_each_process, hangup_to_each_process]


def start_on_terminal(fleet: Fleet) -> tuple[Worker, int]:
    """A gpu worker in the foreground of a terminal, and the side of the terminal to close."""
    name = f"gpu-{len(fleet.workers)}"
    command = worker_command("gpu", name=name)
    pid, keyboard = pty.fork()
    if pid == 0:
        os.execve(command[0], command, service_environment(fleet.settings))
    process = subprocess.Popen(["true"])  # only its bookkeeping is used
    process.wait()
    process.pid, process.returncode = pid, None
    worker = Worker("gpu", name, process)
    fleet.workers.append(worker)
    with fleet.redis as redis:
        wait_for(lambda: any(one.startswith(f"{name}@") for one in living(redis, "gpu")), 60)
    return worker, keyboard


def stopped_without_loss(fleet: Fleet, worker: Worker, record, step: int) -> None:
    """The worker has ended by itself; the stage was saved at `step` or later and is queued."""
    wait_for(lambda: worker.process.poll() is not None, 40)
    told = fleet.load(record)
    stage = told.stages["train"]
    assert stage.state == "queued", told.ended
    assert stage.losses == 0
    assert [one.why for one in told.ended if one.stage == "train"][-1] == (
        "its worker was told to stop"
    )
    assert max(int(path.name.partition("-")[2]) for path in checkpoints(record)) >= step
    assert worker.process.returncode == 0


@pytest.fixture
def record(fleet):
    fleet.staff(cpu=1, gpu=0)
    return fleet.submit(f"hi-{len(fleet.workers):08x}", "train.epochs=60")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_worker_told_to_stop_in_any_way_saves_and_counts_no_loss(fleet, record, way):
    worker = fleet.start_worker("gpu")
    fleet.train_to(record, 2)
    tree = worker.tree()
    way(worker)
    stopped_without_loss(fleet, worker, record, 2)
    wait_for(lambda: not any(running(pid) for pid in tree), 20)
    fleet.jobs.cancel(record.id)


def test_a_worker_whose_terminal_closes_saves_and_counts_no_loss(fleet, record):
    worker, keyboard = start_on_terminal(fleet)
    fleet.train_to(record, 2)
    os.close(keyboard)
    stopped_without_loss(fleet, worker, record, 2)
    fleet.jobs.cancel(record.id)


def start_stack(home: Path) -> tuple[int, int]:
    """`lorajob up` in the foreground of a terminal, and the side of the terminal to close."""
    pid, keyboard = pty.fork()
    if pid == 0:
        env = os.environ | settings_for(home, None).environment()
        code = "import sys; from lorajob.worker.stack.stack import main; sys.exit(main())"
        os.execve(sys.executable, [sys.executable, "-c", code, "--no-flower", "--no-web"], env)
    wait_for(lambda: (info := StackInfo.load(home)) is not None and info.ready, 60)
    return pid, keyboard


def ended_well(pid: int) -> bool:
    """Whether the process has ended; it must not have failed."""
    found, status = os.waitpid(pid, os.WNOHANG)
    assert status == 0
    return found == pid


@pytest.mark.parametrize("way", ["every process is signalled", "the terminal closes"])
def test_a_stack_told_to_stop_in_any_way_gives_its_stage_back(tmp_path, way):
    pid, keyboard = start_stack(tmp_path)
    info = StackInfo.load(tmp_path)
    settings = settings_for(tmp_path, info.redis_url)
    with connect(settings) as redis:
        records = Records(redis)
        record = new_job(settings, records, "hi-00000001", ("preprocess",))
        with Gate(record, "train"):
            send(record, settings)
            wait_for(lambda: records.load(record.id).stages["train"].state == "running")
            if way == "the terminal closes":
                os.close(keyboard)
                os.kill(pid, signal.SIGHUP)  # from the terminal's shell, besides the kernel's
            else:
                for one in descendants(pid):
                    os.kill(one, signal.SIGTERM)
            wait_for(lambda: ended_well(pid), 60)
    told = JobRecord.model_validate_json((Path(record.folder) / "job.json").read_text("utf-8"))
    assert (told.stages["train"].state, told.stages["train"].losses) == ("queued", 0)
    assert told.ended[-1].why == "its worker was told to stop"
    assert not any(lives(one) for one in (info.supervisor, *info.processes.values()))
