"""Workers on broken machines: their faults are not faults of the jobs."""

import errno
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lorajob.worker.health import unfit_workers
from lorajob.worker.machine.self_check import find_fault
from lorajob.worker.records.records import Records
from lorajob.worker.supervision import faults
from lorajob.worker.supervision.outcome import Crashed, Failed, Stopped
from lorajob.worker.supervision.supervisor import crash_place
from tests.support.command import run
from tests.support.fleet import end_tree
from tests.support.records import create
from tests.support.service import settings_for, wait_for

SICK = Path(__file__).parents[1] / "support" / "sick"
DOCS = Path(__file__).parents[2] / "docs"
NATIVE = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT, signal.SIGFPE)


@pytest.fixture
def sick_fleet(fleet):
    """The fleet with a cpu worker; what a test leaves, also one that failed, ends with it."""
    settings = fleet.settings
    fleet.staff(cpu=1, gpu=0)
    yield fleet
    fleet.settings = settings
    for worker in fleet.alive("gpu"):
        end_tree(worker)
    left = [record.id for record in fleet.records.newest(100) if not record.over]
    for job_id in left:
        fleet.records.cancel(job_id)  # the cpu worker ends it once its lease has run out
    wait_for(lambda: all(fleet.records.load(job_id).over for job_id in left), 60)


def submit(fleet, job_id):
    """A job whose stages take no time."""
    record = fleet.new_job(job_id, real=())
    fleet.send(record)
    return record


def sick_worker(fleet, fault, **environment):
    return fleet.start_worker("gpu", LORAJOB_TEST_FAULT=fault, PYTHONPATH=str(SICK), **environment)


def test_workers_on_broken_machines_do_not_drain_the_queue(sick_fleet):
    fleet = sick_fleet
    sick = {sick_worker(fleet, fault).name for fault in ("mount", "disk", "card")}
    good = fleet.start_worker("gpu")
    records = [submit(fleet, f"hi-0000030{number}") for number in range(5)]
    done = [fleet.wait_until(record, "succeeded", 240) for record in records]
    for record in done:
        runs = [entry for entry in record.ended if entry.stage == "train"]
        assert (runs[-1].worker.partition("@")[0], runs[-1].why) == (good.name, "succeeded")
    lost = [entry for record in done for entry in record.ended if entry.kind]
    assert lost and {entry.worker.partition("@")[0] for entry in lost} <= sick
    assert {entry.kind for entry in lost} <= {"files", "disk", "card"}


def test_a_worker_that_fails_fast_takes_itself_out_and_says_so(sick_fleet):
    fleet = sick_fleet
    sick = sick_worker(fleet, "card")
    records = [submit(fleet, f"hi-0000040{number}") for number in range(3)]
    wait_for(lambda: [n for n in unfit_workers(fleet.redis) if n.startswith(sick.name)], 60)
    wait_for(
        lambda: any(
            "attempts in a row failed at once" in unfit.why
            for unfit in unfit_workers(fleet.redis).values()
        ),
        60,
    )
    env = fleet.environment()

    # The worker takes work again after a pause, fails again and pauses for longer. A slow machine
    # may ask in between.
    def waits_for() -> str:
        return json.loads(run("status", records[0].id, "--json", env=env).stdout)["waits_for"] or ""

    wait_for(lambda: "takes no work since" in run("status", env=env).stderr, 120)
    wait_for(
        lambda: any(
            "takes no work" in it["text"] and it["state"] == "warn"
            for it in json.loads(run("doctor", "--json", env=env).stdout)
        ),
        120,
    )
    wait_for(lambda: "takes no work" in (told := waits_for()) and "CUDA error" in told, 120)
    fleet.staff(cpu=1, gpu=1)
    fleet.start_worker("gpu")
    for record in records:
        fleet.wait_until(record, "succeeded", 120)


def documented_user(fleet) -> str:
    """The url of a Redis user with the rights that docs/fleet.md gives it, and no more."""
    text = (DOCS / "fleet.md").read_text("utf-8")
    (rules,) = re.findall(r"^    ACL SETUSER lorajob on >PASSWORD (.*\n.*)$", text, re.M)
    fleet.redis.execute_command("ACL", "SETUSER", "lorajob", "on", ">small", *rules.split())
    fleet.redis.execute_command("ACL", "LOG", "RESET")
    return f"redis://lorajob:small@127.0.0.1:{fleet.port}/0"


def test_a_worker_whose_share_comes_back_takes_work_again(sick_fleet):
    fleet = sick_fleet
    share, unmounted = fleet.home / "share", fleet.home / "unmounted"
    unmounted.mkdir()
    share.symlink_to(unmounted)
    url = documented_user(fleet)
    record = submit(fleet, "hi-00000800")
    worker = fleet.start_worker("gpu", LORAJOB_REDIS_URL=url, LORAJOB_ARTIFACTS=str(share))

    def reasons() -> list[str]:
        found = unfit_workers(fleet.redis).items()
        return [unfit.why for name, unfit in found if name.startswith(worker.name)]

    wait_for(lambda: any("is the share mounted?" in why for why in reasons()), 60)
    assert not fleet.load(record).over
    listed = run("status", env=fleet.environment() | {"LORAJOB_REDIS_URL": url})
    assert "is the share mounted?" in listed.stderr and record.id in listed.stdout
    share.unlink()
    share.symlink_to(fleet.settings.jobs)
    fleet.wait_until(record, "succeeded", 240)
    wait_for(lambda: not reasons(), 60)
    log = fleet.home / f"{worker.name}.log"
    wait_for(lambda: "this worker takes work again" in log.read_text("utf-8"))
    # INFO and CLIENT SETINFO are tried, and done without.
    refused = fleet.redis.execute_command("ACL", "LOG")
    assert {(it["reason"], it["object"]) for it in refused} <= {
        ("command", "info"),
        ("command", "client"),
    }


def test_on_one_machine_a_stage_is_tried_again_with_pauses_and_fails_with_every_reason(sick_fleet):
    fleet = sick_fleet
    fleet.settings = fleet.settings.model_copy(update={"max_faults": 3, "retry_seconds": 0.5})
    sick_worker(fleet, "disk")
    record = submit(fleet, "hi-00000500")
    failed = fleet.wait_until(record, "failed", 60)
    assert failed.error == (
        f"{record.folder}: no room left on the disk for stage train; "
        f"make some, then `lorajob retry {record.id}`"
    )
    times = [it.started_at for it in failed.ended if it.stage == "train"]
    assert len(times) == 3 and times[2] - times[1] >= 1.0  # the pause doubles
    fleet.staff(cpu=1, gpu=0)
    fleet.staff(cpu=1, gpu=1)
    fleet.jobs.retry(record.id)
    fleet.wait_until(record, "succeeded")


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Failed("corpus", "no clip"), "own"),
        (Failed("usage", "no such setting"), "own"),
        (Failed("model", "the loss is nan"), "own"),
        (Failed("files", "gone"), "files"),
        (Failed("disk", "full"), "disk"),
        (Failed("card", "CUDA error"), "card"),
        (Failed("install", "no torch"), "install"),
        (Failed("network", "no Hub"), "network"),
        (Failed("stage", "no spec.json here"), "stage"),
        (Crashed(4, "a bug"), "crash"),
        *((Crashed(-number, number.name), "native") for number in NATIVE),
        (Crashed(-9, "SIGKILL"), "lost"),
        (Crashed(-15, "SIGTERM"), "lost"),
        (Stopped("stalled"), "stalled"),
        (Stopped("cancelled"), None),
    ],
)
def test_only_what_the_input_shows_is_the_jobs_own(outcome, kind, tmp_path):
    loss = faults.loss_of(outcome, settings_for(tmp_path, None))
    assert (loss.kind if isinstance(loss, faults.Loss) else loss) == kind


@pytest.mark.parametrize("number", NATIVE)
def test_the_place_of_every_native_crash_is_found(number, tmp_path):
    script = tmp_path / "library.py"
    script.write_text(
        "import faulthandler, os\n"
        "faulthandler.enable()\n"
        "def load():\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "load()\n"
    )
    log = tmp_path / "train.log"
    log.write_text("a line of an attempt before\n")
    begun = log.stat().st_size
    with log.open("ab") as file:
        done = subprocess.run([sys.executable, str(script)], stderr=file, check=False)
    assert done.returncode == -number
    assert crash_place(log, begun) == f"load of {tmp_path.name}/library.py:4"


def test_a_crash_at_the_same_place_on_two_machines_is_the_jobs(sick_fleet):
    fleet = sick_fleet
    names = sorted(sick_worker(fleet, "crash").name for _ in range(2))
    record = submit(fleet, "hi-00000700")
    failed = fleet.wait_until(record, "failed", 120)
    runs = [entry for entry in failed.ended if entry.stage == "train"]
    assert sorted(entry.worker.partition("@")[0] for entry in runs) == names
    assert failed.error is not None
    assert failed.error.startswith(
        "stage train was ended by SIGSEGV at string_at of ctypes/__init__.py:"
    )
    assert all(name in failed.error for name in names)


def test_a_share_that_cannot_be_read_makes_a_worker_unfit(redis, tmp_path, monkeypatch):
    settings = settings_for(tmp_path, None)
    records = Records(redis, settings.place_of)
    record = create(records, settings.jobs)
    healthy = Path.is_file

    def stale(path):
        if path.is_relative_to(settings.jobs):
            raise OSError(errno.ESTALE, "Stale file handle")
        return healthy(path)

    assert "is the share mounted?" in (find_fault(settings, records, []) or "")
    monkeypatch.setattr(Path, "is_file", stale)
    said = find_fault(settings, records, [])
    assert said is not None and said.endswith(f"{record.id} cannot be read: Stale file handle")
    # Other jobs can be run if only the folder of one cannot be read.
    for name in (record.id, create(records, settings.jobs).id):
        monkeypatch.setattr(
            Path, "is_file", lambda path, name=name: path.parent.name == name or stale(path)
        )
        assert find_fault(settings, records, []) is None
