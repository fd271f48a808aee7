"""deploy/alive.py, the probe of a container, beside real workers."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorajob.worker.heartbeats import ALIVE, CONNECTED
from tests.support.fleet import Fleet
from tests.support.ports import free_port
from tests.support.service import PASSWORD, settings_for, wait_for

PROBE = Path(__file__).parents[2] / "deploy" / "alive.py"


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A Redis, and workers whose temporary folder is this test's."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    port = free_port()
    settings = settings_for(tmp_path, f"redis://:{PASSWORD}@127.0.0.1:{port}/0")
    fleet = Fleet(tmp_path, settings, port, tmp_path)
    fleet.start_redis()
    try:
        yield fleet
    finally:
        for worker in fleet.workers:
            worker.signal(signal.SIGKILL, worker.tree())
            worker.process.wait()
        fleet.kill_redis()


def probe(question: str, tmp: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-IS", PROBE, question],
        env={"TMPDIR": str(tmp)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def folder_of(tmp: Path) -> Path:
    (folder,) = tmp.glob("lorajob-worker-*")
    return folder


def backdate(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_worker_is_ready_while_redis_hears_it_and_alive_when_it_does_not(fleet: Fleet) -> None:
    tmp = fleet.home / "tmp"
    fleet.start_worker("cpu")
    wait_for(lambda: probe("ready", tmp).returncode == 0)
    assert probe("live", tmp).returncode == 0

    fleet.kill_redis()
    connected = folder_of(tmp) / CONNECTED

    def cut_off() -> bool:
        backdate(connected, 40)  # as if half a minute had passed; a beat would make it new
        return probe("ready", tmp).returncode == 1

    wait_for(cut_off)
    assert "Redis does not hear" in probe("ready", tmp).stdout
    before = (folder_of(tmp) / ALIVE).stat().st_mtime
    wait_for(lambda: (folder_of(tmp) / ALIVE).stat().st_mtime > before)
    assert probe("live", tmp).returncode == 0

    fleet.start_redis()
    wait_for(lambda: probe("ready", tmp).returncode == 0)


def test_a_worker_that_waits_for_its_first_redis_is_alive(fleet: Fleet) -> None:
    tmp = fleet.home / "tmp"
    fleet.kill_redis()
    fleet.start_worker("cpu", wait=False)
    wait_for(lambda: probe("live", tmp).returncode == 0)
    assert probe("ready", tmp).returncode == 1


def test_a_frozen_worker_is_not_alive(fleet: Fleet) -> None:
    tmp = fleet.home / "tmp"
    worker = fleet.start_worker("cpu")
    wait_for(lambda: probe("ready", tmp).returncode == 0)
    worker.signal(signal.SIGSTOP)
    backdate(folder_of(tmp) / ALIVE, 61)
    answer = probe("live", tmp)
    assert answer.returncode == 1 and "no worker lives here" in answer.stdout
    worker.signal(signal.SIGCONT)
    wait_for(lambda: probe("live", tmp).returncode == 0)


def test_a_worker_outlives_a_tidied_tmp(fleet: Fleet) -> None:
    tmp = fleet.home / "tmp"
    fleet.start_worker("cpu")
    wait_for(lambda: probe("ready", tmp).returncode == 0)
    shutil.rmtree(folder_of(tmp))
    wait_for(lambda: probe("ready", tmp).returncode == 0)


def test_a_worker_that_ended_leaves_no_sign_of_life(fleet: Fleet) -> None:
    tmp = fleet.home / "tmp"
    worker = fleet.start_worker("cpu")
    worker.signal(signal.SIGTERM)
    worker.process.wait(timeout=240)
    assert not list(tmp.glob("lorajob-worker-*"))
    assert probe("live", tmp).returncode == 1


def test_the_probe_costs_little_and_loads_nothing_of_ours() -> None:
    code = (
        "import runpy, sys; sys.argv = ['alive.py', 'live']\n"
        "try:\n"
        f"    runpy.run_path({str(PROBE)!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    print('LOADED', *sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in run.stdout.rpartition("LOADED")[2].split()}
    assert "tempfile" in loaded
    assert not loaded & {"lorajob", "redis", "torch", "pydantic", "celery", "asyncio"}


def test_the_probe_says_how_it_is_used() -> None:
    for arguments in ([], ["cpu"], ["live", "ready"]):
        run = subprocess.run(
            [sys.executable, "-IS", PROBE, *arguments], capture_output=True, text=True
        )
        assert run.returncode == 1 and run.stderr == "usage: alive.py live|ready|flower [PORT]\n"
