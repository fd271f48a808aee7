import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.exceptions import RedisError

from lorajob.errors import ServiceError
from lorajob.worker.connect import connect
from lorajob.worker.machine.processes import (
    Identity,
    backoff,
    end,
    identity_of,
    lives,
    signal_process,
)
from lorajob.worker.stack.info import StackInfo, is_up
from lorajob.worker.stack.redis_server import find_server, free_port, server_version
from lorajob.worker.stack.rotation import Rotation
from lorajob.worker.stack.services import keep_web_port, web_port
from lorajob.worker.stack.stack import Stack
from tests.support.service import command_lines, settings_for, wait_for


@pytest.fixture
def home(tmp_path):
    """A home whose stack, if the test left one, is ended."""
    yield tmp_path
    Stack(settings_for(tmp_path, None)).down()


def all_of(info: StackInfo) -> list[Identity]:
    return [info.supervisor, *info.processes.values()]


def test_a_stack_keeps_what_dies_refuses_a_second_and_leaves_nothing(home):
    stack = Stack(settings_for(home, None))
    told = []
    stack.up(detach=True, flower=False, web=False, on_ready=told.append)
    info = stack.info()
    assert told == [info]
    assert set(info.processes) == {"redis", "cpu worker", "gpu worker"}
    assert all(lives(one) for one in all_of(info))

    for detach in (True, False):
        with pytest.raises(ServiceError, match="already up in"):
            stack.up(detach=detach)
    assert stack.info() == info

    for name in ("redis", "gpu worker"):
        signal_process(info.processes[name], signal.SIGKILL)
        wait_for(
            lambda name=name: stack.info().processes.get(name) not in (None, info.processes[name])
        )
    with connect(settings_for(home, info.redis_url)) as redis:
        wait_for(lambda: answers(redis))

    everything = [*all_of(info), *all_of(stack.info())]
    assert stack.down()
    assert not any(lives(one) for one in everything)
    assert stack.info() is None and not (home / "up.json").exists() and not is_up(home)
    assert not [line for line in command_lines().values() if str(home) in line]
    assert not stack.down()


def answers(redis) -> bool:
    try:
        return redis.ping()
    except RedisError:
        return False


def test_jobs_outlast_the_stack(home):
    stack = Stack(settings_for(home, None))
    for turn in range(2):
        stack.up(detach=True, flower=False, web=False)
        with connect(settings_for(home, stack.info().redis_url)) as redis:
            assert redis.incr("lorajob:turns") == turn + 1
        stack.down()


def test_nothing_outlives_a_stack_that_is_killed(home):
    stack = Stack(settings_for(home, None))
    stack.up(detach=True, flower=True)
    info = stack.info()
    signal_process(info.supervisor, signal.SIGKILL)
    wait_for(lambda: not any(lives(one) for one in all_of(info)))
    assert stack.info() is None
    assert not stack.down()  # nothing was left to end


def test_ctrl_c_ends_a_stack_in_the_foreground(home):
    code = "import sys; from lorajob.worker.stack.stack import main; sys.exit(main())"
    env = os.environ | {"LORAJOB_HOME": str(home)}
    process = subprocess.Popen([sys.executable, "-c", code, "--no-flower", "--no-web"], env=env)
    wait_for(lambda: (info := StackInfo.load(home)) is not None and info.ready)
    info = StackInfo.load(home)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=240) == 0
    assert not any(lives(one) for one in all_of(info))


def test_an_outside_redis_that_is_not_there_is_named_without_its_password(home):
    port = free_port()
    stack = Stack(settings_for(home, f"redis://:hidden@127.0.0.1:{port}/0"))
    for detach in (True, False):
        with pytest.raises(ServiceError) as error:
            stack.up(detach=detach, flower=False, web=False)
        assert f"redis://:***@127.0.0.1:{port}/0" in str(error.value)
        assert "hidden" not in str(error.value)
    assert not (home / "up.json").exists()


def test_an_outside_redis_is_used_and_left_alone(home, redis_server):
    settings = settings_for(home, redis_server.redis_url.get_secret_value())
    stack = Stack(settings)
    stack.up(detach=True, flower=False, web=False)
    assert set(stack.info().processes) == {"cpu worker", "gpu worker"}
    stack.down()
    with connect(settings) as redis:
        assert redis.ping()


def test_only_the_very_process_is_ended_not_a_later_one_of_its_pid():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    now = identity_of(child.pid)
    assert now is not None
    earlier = Identity(pid=now.pid, started=now.started - 1)
    assert not lives(earlier)
    end([earlier], 1)
    assert lives(now)
    end([now], 5)
    assert child.wait() == -signal.SIGTERM
    assert identity_of(child.pid) is None


def test_a_redis_server_new_enough_is_found():
    version = server_version(find_server())
    assert version is not None and version >= (6, 2)


def test_a_machine_without_a_redis_server_is_told_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServiceError, match="set LORAJOB_REDIS_URL"):
        find_server()


def test_an_older_redis_server_is_passed_over(monkeypatch, tmp_path):
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    assert server_version(old) == (5, 0)
    assert find_server() != old


def test_the_backoff_doubles_up_to_half_a_minute():
    assert [backoff(n) for n in (1, 2, 3, 4)] == [0.5, 1, 2, 4]
    assert backoff(40) == 30


def test_what_is_no_up_file_is_none(tmp_path):
    assert StackInfo.load(tmp_path) is None
    (tmp_path / "up.json").write_text('{"redis_url": 1')
    assert StackInfo.load(tmp_path) is None


def test_an_up_file_shows_no_password_when_printed(tmp_path):
    secret = SecretStr("tell-nobody").get_secret_value()
    info = StackInfo(
        redis_url=f"redis://:{secret}@host/0",
        flower_password=secret,
        supervisor=Identity(pid=1, started=1),
    )
    assert secret not in repr(info) + str(info)
    info.save(tmp_path)
    assert StackInfo.load(tmp_path) == info
    assert Path(tmp_path / "up.json").stat().st_mode & 0o777 == 0o600


def test_a_log_that_grew_too_large_is_rotated_under_its_writer(tmp_path):
    path = tmp_path / "gpu-worker.log"
    settings = settings_for(tmp_path, None).model_copy(update={"log_mb": 0.001})
    with path.open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(b"%d" % number * 2000)
            Rotation(tmp_path, settings).tend()
            assert path.read_bytes() == b""
        writer.write(b"short")
        Rotation(tmp_path, settings).tend()
    kept = {it.name: it.read_bytes()[:1] for it in tmp_path.iterdir()}
    assert kept == {
        "gpu-worker.log": b"s",
        "gpu-worker.log.1": b"4",
        "gpu-worker.log.2": b"3",
        "gpu-worker.log.3": b"2",
    }
    assert (tmp_path / "gpu-worker.log.1").stat().st_size == 2000


def test_logs_are_left_whole_if_rotation_is_off_or_impossible(tmp_path, caplog):
    path = tmp_path / "up.log"
    path.write_bytes(b"x" * 2000)
    settings = settings_for(tmp_path, None)
    Rotation(tmp_path, settings.model_copy(update={"log_mb": 0})).tend()
    (tmp_path / "up.log.new").mkdir()
    Rotation(tmp_path, settings.model_copy(update={"log_mb": 0.001})).tend()
    assert path.read_bytes() == b"x" * 2000 and "cannot be rotated" in caplog.text


def test_the_port_of_the_pages_stays_unless_another_program_has_it(tmp_path):
    first = web_port(tmp_path)
    assert web_port(tmp_path) == first
    with socket.create_server(("127.0.0.1", first)):
        other = web_port(tmp_path)
        assert other != first
    assert web_port(tmp_path) == other
    keep_web_port(tmp_path, first)
    assert web_port(tmp_path) == first
