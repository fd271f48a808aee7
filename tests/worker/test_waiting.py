"""A test that waits for a process fails at once, with its last words, if the process has ended."""

import re
import socket
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis

from lorajob.worker.settings import Settings
from tests.support import service
from tests.support.command import job_record
from tests.support.fleet import Fleet, fleet_settings
from tests.support.ports import free_port, never_given
from tests.support.service import LONG_SECONDS

pytestmark = pytest.mark.slow


def test_a_redis_without_its_port_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fleet = Fleet(tmp_path, fleet_settings(tmp_path, port), port, tmp_path)
        began = time.monotonic()
        with pytest.raises(AssertionError, match="Address already in use"):
            fleet.start_redis()
    assert time.monotonic() - began < LONG_SECONDS / 2


def test_a_worker_that_has_ended_is_not_waited_for(
    redis_server: Settings, redis: Redis, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, redis_server, 0, tmp_path)
    began = time.monotonic()
    with pytest.raises(AssertionError, match="The module missing_app was not found"):
        fleet.start_worker("gpu", app="missing_app")
    record = job_record(tmp_path)
    fleet.records.create(record)
    with pytest.raises(AssertionError, match=re.compile("no worker is left.*missing_app", re.S)):
        fleet.wait_until(record, "succeeded")
    assert time.monotonic() - began < LONG_SECONDS / 2


def test_a_long_wait_asks_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    fake = SimpleNamespace(
        monotonic=lambda: clock[0],
        thread_time=lambda: 0.0,
        sleep=lambda seconds: clock.append(clock.pop() + seconds),
    )
    monkeypatch.setattr(service, "time", fake)
    asked: list[float] = []

    def later() -> bool:
        asked.append(clock[0])
        return clock[0] > 100

    service.wait_for(later)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[0] == 0.05 and max(pauses) == pytest.approx(1.0) and asked[-1] < 102
    assert all(pause <= max(0.06, at / 49) for at, pause in zip(asked, pauses, strict=False))


def test_a_connection_never_takes_the_port_of_a_server_that_starts_again(tmp_path: Path) -> None:
    assert all(free_port() in never_given() for _ in range(200))
    given = tmp_path / "ip_local_port_range"
    for text, ports in (
        ("32768\t60999\n", range(12_000, 32_768)),
        ("1024\t60999\n", range(61_000, 65_536)),
        ("1024\t65535\n", range(12_000, 65_536)),
    ):
        given.write_text(text)
        assert never_given(given) == ports
