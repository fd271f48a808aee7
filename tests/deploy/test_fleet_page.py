"""docs/fleet.md, line by line: its first blocks make two machines of nothing.

What the page says runs as it stands, but for addresses, ports and keys. What would install packages
only notes what it was asked for; everything is installed here.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from lorajob.worker.heartbeats import living
from lorajob.worker.stack.redis_server import find_server
from tests.support import needs
from tests.support.command import environment
from tests.support.deployment import ROOT
from tests.support.object_store import KEYS
from tests.support.ports import free_port
from tests.support.procs import descendants, running
from tests.support.service import wait_for

PAGE = (ROOT / "docs" / "fleet.md").read_text("utf-8")
PROGRAMS = {
    "sudo": 'echo "$@" >> installed',
    "pip": 'test -f constraints.txt && test -f pyproject.toml && echo "$@" >> installed',
    "python3": "mkdir -p .venv/bin; : > .venv/bin/activate",  # -m venv
    "python": f'exec {sys.executable} "$@"',
    "lorajob": f'exec {sys.executable} -m lorajob.cli.main "$@"',
}


def blocks() -> list[str]:
    """The page's blocks of commands before its first heading of a section: every machine's, the
    first one's, each other one's.
    """
    found = re.findall(r"(?:^    .*\n)+", PAGE.partition("\n## ")[0], re.MULTILINE)
    return [re.sub("^    ", "", block, flags=re.MULTILINE) for block in found]


def test_the_page_takes_ten_lines() -> None:
    assert len(blocks()) == 3
    assert sum(len(block.splitlines()) for block in blocks()) <= 10


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of the programs that the page names, for the PATH."""
    needs.openssl()
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh -e\n{script}\n", "utf-8")
        (folder / name).chmod(0o755)
    (folder / "redis-server").symlink_to(find_server())
    return folder


class Machine:
    """A folder that stands in for a machine: what is in it, its home, and what runs there."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.checkout = folder / "checkout"
        self.checkout.mkdir(parents=True)
        for name in ("deploy", "constraints.txt", "pyproject.toml"):
            (self.checkout / name).symlink_to(ROOT / name)
        env = environment(home=folder / "home")
        self.env = {name: value for name, value in env.items() if not name.startswith("AWS_")}
        self.env["PATH"] = f"{programs}:{os.environ['PATH']}"
        self.log = folder / "log"
        self.shells: list[subprocess.Popen[bytes]] = []

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """Run lines as an operator's shell does, which stays."""
        with self.log.open("ab") as log:
            options = {"cwd": self.checkout, "env": self.env, "stdout": log, "stderr": log}
            self.shells.append(subprocess.Popen(["sh", "-ec", f"{script}\nwait"], **options))
        return self.shells[-1]

    def close(self) -> None:
        pids = [pid for shell in self.shells for pid in descendants(shell.pid)]
        for pid in filter(running, pids):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not any(running(pid) for pid in pids[1:]), 60)
        for shell in self.shells:
            shell.wait(timeout=240)


@pytest.fixture
def machines(tmp_path: Path, programs: Path) -> Iterator[tuple[Machine, Machine]]:
    both = Machine(tmp_path / "one", programs), Machine(tmp_path / "two", programs)
    yield both
    for machine in both:
        machine.close()


def adapted(block: str, port: int) -> str:
    """The block for this machine and the tests' store."""
    changes = {
        "'bind 10.0.0.1'": f"'bind 127.0.0.1' 'port {port}'",
        "10.0.0.1:6379": f"127.0.0.1:{port}",
        "s3://lorajob/jobs": "s3://of-the-page/jobs",  # which nobody has made
        "https://store.example.org": os.environ["AWS_ENDPOINT_URL"],
        **{f"{name}=...": f"{name}={value}" for name, value in KEYS.items()},
    }
    for old, new in changes.items():
        assert block.count(old) == 1, old
        block = block.replace(old, new)
    return block


def test_two_machines_serve_after_its_lines(machines: tuple[Machine, Machine], bucket: str) -> None:
    one, two = machines
    every, first, other = blocks()
    for machine in machines:
        assert machine.start(every).wait(timeout=120) == 0, machine.log.read_text()
        packages, project = (machine.checkout / "installed").read_text("utf-8").splitlines()
        assert "redis-server" in packages and project == "install -c constraints.txt .[s3]"
    port = free_port()
    shell = one.start(adapted(first, port))
    wait_for(lambda: shell.poll() is not None or "ready" in one.log.read_text(), 90)
    settings = one.checkout / "fleet.env"
    assert settings.stat().st_mode & 0o077 == 0
    (password,) = re.findall("redis://:([0-9a-f]{48})@", settings.read_text("utf-8"))
    with Redis(port=port, password=password, decode_responses=True) as redis:
        try:
            wait_for(lambda: living(redis, "cpu") and living(redis, "gpu"), 60)
            shutil.copy(settings, two.checkout)
            two.start(other)
            wait_for(lambda: len(living(redis, "gpu")) == 2, 90)
            assert redis.config_get("appendonly") == {"appendonly": "yes"}
            for machine in machines:
                said = machine.log.read_text("utf-8")
                assert "ok   store      s3://of-the-page/jobs can be written" in said
                assert "ok   redis" in said and "\nfail" not in said
        finally:
            for machine in machines:
                machine.close()
            stop(redis)


def stop(redis: Redis) -> None:
    """End the server that the page left in the background."""
    try:
        redis.shutdown(nosave=True)
    except RedisError:  # it was gone before, or goes without an answer
        return


def test_every_promise_names_a_test_that_exists() -> None:
    table = PAGE.partition("## What happens after each failure")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    files = (ROOT / "tests").rglob("test_*.py")
    known = {name for it in files for name in re.findall(r"def (test_\w+)", it.read_text("utf-8"))}
    assert rows
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named and set(named) <= known, row
