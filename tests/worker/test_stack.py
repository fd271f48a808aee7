import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from openai import OpenAI
from pydantic import SecretStr
from redis.exceptions import RedisError

from lorajob.errors import ServiceError
from lorajob.tasks.promotions import Promotions
from lorajob.whisper.ct2 import convert
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
from lorajob.worker.stack.redis_server import find_server, server_version
from lorajob.worker.stack.rotation import Rotation
from lorajob.worker.stack.services import keep_web_port, web_port
from lorajob.worker.stack.stack import Stack
from tests.support.ports import free_port
from tests.support.service import command_lines, settings_for, wait_for
from tests.support.serving import delivered_job, tone


@pytest.fixture
def place(tmp_path):
    """A LORAJOB_HOME whose stack, if the test left one, is ended."""
    yield tmp_path
    Stack(settings_for(tmp_path, None)).down()


def all_of(info: StackInfo) -> list[Identity]:
    return [info.supervisor, *info.processes.values()]


def test_a_stack_keeps_what_dies_refuses_a_second_and_leaves_nothing(place, tiny_whisper):
    stack = Stack(settings_for(place, None))
    told = []
    delivered_job(place, "hi-aaaa1111", convert(tiny_whisper, place / "model", "float32"))
    Promotions(settings_for(place, None)).promote("hi-aaaa1111")
    port = free_port()
    stack.up(detach=True, flower=False, web=False, on_ready=told.append, serve_port=port)
    info = stack.info()
    assert told == [info]
    assert set(info.processes) == {"redis", "cpu worker", "gpu worker", "serve"}
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
    with connect(settings_for(place, info.redis_url)) as redis:
        wait_for(lambda: answers(redis))
    assert killed_in_the_middle(stack, tone(place / "short.wav", 3)) == ["heard"] * 50

    everything = [*all_of(info), *all_of(stack.info())]
    assert stack.down()
    assert not any(lives(one) for one in everything)
    assert stack.info() is None and not (place / "up.json").exists() and not is_up(place)
    assert not [line for line in command_lines().values() if str(place) in line]
    assert not stack.down()


def killed_in_the_middle(stack: Stack, sound: Path) -> list[str]:
    """What each of 50 requests got, eight at a time. The server is killed after ten answers."""
    info = stack.info()
    client = OpenAI(base_url=f"{info.serve_url}/v1", api_key="any", max_retries=30)
    heard = []

    def ask(number: int) -> str:
        text = client.audio.transcriptions.create(file=sound, model="hi").text
        heard.append(number)
        if len(heard) == 10:
            signal_process(info.processes["serve"], signal.SIGKILL)
        return "heard" if text else "nothing"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(50)))
    assert stack.info().processes["serve"] != info.processes["serve"]
    return found


def answers(redis) -> bool:
    try:
        return redis.ping()
    except RedisError:
        return False


def test_jobs_outlast_the_stack(place):
    stack = Stack(settings_for(place, None))
    for turn in range(2):
        stack.up(detach=True, flower=False, web=False)
        with connect(settings_for(place, stack.info().redis_url)) as redis:
            assert redis.incr("lorajob:turns") == turn + 1
        stack.down()


def test_nothing_outlives_a_stack_that_is_killed(place):
    stack = Stack(settings_for(place, None))
    stack.up(detach=True, flower=True)
    info = stack.info()
    signal_process(info.supervisor, signal.SIGKILL)
    wait_for(lambda: not any(lives(one) for one in all_of(info)))
    assert stack.info() is None
    assert not stack.down()  # nothing was left to end


def test_ctrl_c_ends_a_stack_in_the_foreground(place):
    code = "import sys; from lorajob.worker.stack.stack import main; sys.exit(main())"
    env = os.environ | {"LORAJOB_HOME": str(place)}
    process = subprocess.Popen([sys.executable, "-c", code, "--no-flower", "--no-web"], env=env)
    wait_for(lambda: (info := StackInfo.load(place)) is not None and info.ready)
    info = StackInfo.load(place)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=240) == 0
    assert not any(lives(one) for one in all_of(info))


def test_a_taken_port_of_serve_is_refused_before_anything_is_started(place):
    stack = Stack(settings_for(place, None))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"--serve-port {port}: Address already in use"):
            stack.up(serve_port=port)
    assert not (place / "up.json").exists()


def test_an_outside_redis_that_is_not_there_is_named_without_its_password(place):
    port = free_port()
    stack = Stack(settings_for(place, f"redis://:hidden@127.0.0.1:{port}/0"))
    for detach in (True, False):
        with pytest.raises(ServiceError) as error:
            stack.up(detach=detach, flower=False, web=False)
        assert f"redis://:***@127.0.0.1:{port}/0" in str(error.value)
        assert "hidden" not in str(error.value)
    assert not (place / "up.json").exists()


def test_an_outside_redis_is_used_and_left_alone(place, redis_server):
    settings = settings_for(place, redis_server.redis_url.get_secret_value())
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
        with pytest.raises(ServiceError, match=f"--port {first}: .*; name another one"):
            keep_web_port(tmp_path, first)
        other = web_port(tmp_path)
        assert other != first
    assert web_port(tmp_path) == other
    keep_web_port(tmp_path, first)
    assert web_port(tmp_path) == first
