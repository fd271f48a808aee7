"""Workers pinned to GPUs, as nvidia-smi's recorded answers tell of them, and idle workers' end."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorajob.errors import UsageError
from lorajob.gpu_memory import job_gb, training_gb
from lorajob.spec import build_spec
from lorajob.worker.connect import connect
from lorajob.worker.heartbeats import living
from lorajob.worker.machine.gpus import pins
from lorajob.worker.queues import classes_of, lanes_of, lists_of
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import environment, run, start, url_of
from tests.support.gpus import A100, CARDS, L4, LARGE, PARTS, SMALL, fake_driver, visible
from tests.support.procs import descendants, running, sessions
from tests.support.service import Gate, new_job, wait_for

READY_SECONDS = 240
ALL_BUT_TRAIN = ("preprocess", "evaluate", "convert")


def test_auto_is_every_card_by_its_uuid_and_memory(driver):
    assert visible("auto") == [L4, A100]
    assert [round(pin.memory_gb, 1) for pin in pins("auto")] == [24.2, 85.9]


def test_all_is_one_worker_that_sees_every_card_and_counts_on_the_smallest(driver):
    assert [(pin.visible, round(pin.memory_gb, 1)) for pin in pins("all")] == [(None, 24.2)]


def test_a_card_in_parts_is_left_out_for_its_parts(driver):
    fake_driver(driver, CARDS + PARTS)
    assert [(pin.visible, pin.index) for pin in pins("auto")] == [
        (L4, "0"),
        (LARGE, "1"),
        (SMALL, "1"),
    ]
    assert [pin.memory_gb for pin in pins("1")] == [40, 10]
    assert visible(f"{SMALL},0") == [SMALL, L4]


@pytest.mark.parametrize(
    ("asked", "wanted"), [("1,0", [A100, L4]), ("GPU-8f6", [A100]), ("0,0", [L4]), ("none", [""])]
)
def test_gpus_are_chosen_by_number_or_uuid(driver, asked, wanted):
    assert visible(asked) == wanted


def test_only_what_cuda_visible_devices_leaves_is_offered(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert visible("auto") == [A100]
    with pytest.raises(UsageError, match="'0' is unknown"):
        pins("0")


def test_a_lost_card_leaves_the_others_a_worker_each(driver):
    lost = "Unable to determine the device handle for GPU2: 0000:41:00.0: GPU is lost."
    fake_driver(driver, CARDS + lost)
    command = driver / "nvidia-smi"
    command.write_text(command.read_text() + "exit 15\n")
    assert visible("auto") == [L4, A100]
    assert [round(pin.memory_gb, 1) for pin in pins("auto")] == [24.2, 85.9]


@pytest.mark.parametrize("asked", ["2", "GPU-9", "", "0,x", "MIG-1"])
def test_an_unknown_gpu_is_one_line_that_names_those_there_are(driver, asked):
    with pytest.raises(UsageError, match=rf"gpus: .* is unknown; .* 0 \({L4}\)"):
        pins(asked)


def test_a_machine_without_a_driver_has_one_worker_without_limits(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(pin.visible, pin.memory_gb) for pin in pins("auto")] == [(None, None)]
    with pytest.raises(UsageError, match="no GPU is visible"):
        pins("0")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--queue", "gpu", "--gpus", "7"), "gpus: '7' is unknown"),
        (("--queue", "gpu", "--gpus", ""), "gpus: '' is unknown"),
        (("--queue", "cpu", "--gpus", "0"), "--gpus is for --queue gpu"),
        (("--queue", "gpu", "--autoscale", "4,1"), "--autoscale is for --queue cpu"),
        (("--queue", "cpu", "--autoscale", "1,4"), "MAX must be at least 1 and MIN"),
        (("--queue", "cpu", "--autoscale", "4"), "is not MAX,MIN"),
        (("--queue", "cpu", "--autoscale", "4,-1"), "is not MAX,MIN"),
        (("--queue", "cpu", "--autoscale", "4,1", "--concurrency", "2"), "exclude each other"),
        (("--queue", "gpu", "--exit-when-idle", "0"), "--exit-when-idle"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, args, words):
    env = environment(redis_url="redis://127.0.0.1:1/0", home=tmp_path)
    done = run("worker", *args, env=env)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def env(redis_server: Settings, tmp_path: Path) -> dict[str, str]:
    with connect(redis_server) as redis:
        redis.flushall()
    driver = fake_driver(tmp_path / "bin")
    plain = environment(redis_url=url_of(redis_server), home=redis_server.home)
    plain.pop("CUDA_VISIBLE_DEVICES", None)
    path = f"{driver}:{plain['PATH']}"
    return plain | {"LORAJOB_GRACE_SECONDS": "2", "PATH": path}


@pytest.fixture
def begun() -> Iterator[list[subprocess.Popen[str]]]:
    """Commands that a test started; none of them outlives it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        left = descendants(process.pid)
        for pid in left if process.poll() is None else []:
            if running(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=240)


def launch(begun, env, tmp_path, *args: str) -> subprocess.Popen[str]:
    log = (tmp_path / "worker.log").open("w")
    begun.append(start("worker", *args, env=env, stdout=log, stderr=log))
    log.close()
    return begun[-1]


def pools(parent: int) -> list[tuple[str, str]]:
    """CUDA_VISIBLE_DEVICES and the queues' kinds of each worker's main process."""
    found: list[tuple[str, str]] = []
    workers: set[int] = set()
    for pid in descendants(parent):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")
            env = Path(f"/proc/{pid}/environ").read_text("utf-8").split("\0")
            above = int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue
        # A child has its parent's command line until it starts its own program.
        if "--queues" in line and above not in workers:
            workers.add(pid)
            queues = line[line.index("--queues") + 1].split(",")
            kinds = ",".join(dict.fromkeys(queue.partition(".")[0] for queue in queues))
            card = [item for item in env if item.startswith("CUDA_VISIBLE_DEVICES=")]
            found.append((card[0].partition("=")[2] if card else "-", kinds))
    return sorted(found)


def test_each_gpu_has_a_worker_of_what_fits_it_and_sigterm_ends_them_all(
    redis_server, env, begun, tmp_path
):
    command = launch(begun, env, tmp_path, "--queue", "gpu")
    with connect(redis_server) as redis:
        wait_for(lambda: len(living(redis, "gpu24")) == 2, READY_SECONDS)
        wait_for(lambda: len(living(redis, "gpu80")) == 1)
        wanted = sorted(
            [(card, ",".join(classes_of("gpu", size))) for card, size in ((L4, 24), (A100, 85))]
        )
        assert pools(command.pid) == wanted
        family = descendants(command.pid)
        command.send_signal(signal.SIGTERM)
        assert command.wait(timeout=240) == 0
        wait_for(lambda: not any(running(pid) for pid in family))
        assert living(redis, "gpu") == []


def test_a_worker_that_fails_is_not_started_again_and_its_code_is_the_commands(
    redis_server, env, begun, tmp_path
):
    command = launch(begun, env, tmp_path, "--queue", "gpu", "--gpus", "0,1")
    with connect(redis_server) as redis:
        wait_for(lambda: len(living(redis, "gpu")) == 2, READY_SECONDS)
    first = sessions(command.pid)[0]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: len(pools(command.pid)) == 1)
    command.send_signal(signal.SIGTERM)
    assert command.wait(timeout=240) == 128 + signal.SIGKILL


def test_no_worker_outlives_its_killed_parent(redis_server, env, begun, tmp_path):
    command = launch(begun, env, tmp_path, "--queue", "gpu")
    with connect(redis_server) as redis:
        wait_for(lambda: len(living(redis, "gpu")) == 2, READY_SECONDS)
    family = descendants(command.pid)
    command.kill()
    wait_for(lambda: not any(running(pid) for pid in family))


def test_gpus_none_is_one_worker_that_sees_no_card(redis_server, env, begun, tmp_path):
    args = ("--queue", "gpu", "--gpus", "none", "--exit-when-idle", "4")
    command = launch(begun, env, tmp_path, *args)
    seen: list[tuple[str, str]] = []  # it may end at any time
    wait_for(lambda: seen.extend(pools(command.pid)) or seen)
    assert {card for card, _ in seen} == {""}
    assert command.wait(timeout=READY_SECONDS) == 0


def test_a_worker_ends_when_idle_but_not_while_a_stage_runs(redis_server, env, begun, tmp_path):
    from lorajob.tasks.broker import send

    with connect(redis_server) as redis:
        records = Records(redis)
        record = new_job(redis_server, records, "hi-0001d1e0", ALL_BUT_TRAIN)
        with Gate(record, "train") as gate:
            send(record, redis_server)
            worker = launch(begun, env, tmp_path, "--queue", "cpu", "--exit-when-idle", "1.5")
            assert worker.wait(timeout=READY_SECONDS) == 0  # preprocess was there already
            args = ("--queue", "gpu", "--gpus", "0", "--exit-when-idle", "1")
            worker = launch(begun, env, tmp_path, *args)
            wait_for(lambda: records.load(record.id).stages["train"].state == "running", 60)
            busy_until = time.monotonic() + 3
            wait_for(lambda: time.monotonic() > busy_until or worker.poll() is not None)
            assert worker.poll() is None
            gate.open()
            wait_for(lambda: records.load(record.id).stages["train"].state == "succeeded")
        assert worker.wait(timeout=READY_SECONDS) == 0
        assert records.load(record.id).stages["train"].attempts == 1
        assert not redis.hlen("unacked")
        assert not redis.exists(*lists_of(lanes_of(["gpu"])))


def test_the_pool_of_cpu_workers_grows_from_none(redis_server, env, begun, tmp_path):
    from lorajob.tasks.broker import send

    with connect(redis_server) as redis:
        records = Records(redis)
        names = ("hi-0a0705c1", "hi-0a0705c2")
        jobs = [new_job(redis_server, records, name, ()) for name in names]
        with Gate(jobs[0], "preprocess"), Gate(jobs[1], "preprocess"):
            launch(begun, env, tmp_path, "--queue", "cpu", "--autoscale", "2,0")
            wait_for(lambda: living(redis, "cpu"), READY_SECONDS)
            for job in jobs:
                send(job, redis_server)
            wait_for(lambda: all(records.load(name).state == "running" for name in names), 60)


@pytest.mark.parametrize(
    ("base_model", "like"),
    [
        ("smallville/whisper-large-v3", "openai/whisper-large-v3"),
        ("acme/database-whisper-large-v3", "openai/whisper-large-v3"),
        ("/models/base/whisper-largev2", "openai/whisper-large-v2"),
        ("openai/whisper-large-v3-turbo", "acme/turbo-de"),
        ("acme/whisper_small_hi", "openai/whisper-small"),
    ],
)
def test_a_models_size_is_told_by_its_name_and_not_by_what_is_around_it(base_model, like):
    needs = [
        training_gb(build_spec({"language": "hi", "corpus": "a", "base_model": one}))
        for one in (base_model, like)
    ]
    assert needs[0] == needs[1] > 0


def test_a_converted_models_size_is_told_by_its_folders_name(tmp_path):
    folder = tmp_path / "faster-whisper-large-v3"
    folder.mkdir()
    (folder / "config.json").write_text('{"suppress_ids": [], "lang_ids": []}')
    spec = build_spec({"language": "hi", "corpus": "a", "base_model": str(folder)})
    named = spec.model_copy(update={"base_model": "openai/whisper-large-v3"})
    assert training_gb(spec) == training_gb(named) > 0


def test_the_memory_of_a_job_covers_its_evaluation() -> None:
    """large-v3 in 4 bit trains in less memory than its 16-bit weights take in evaluation."""
    given = {"language": "hi", "corpus": "a", "base_model": "openai/whisper-large-v3"}
    spec = build_spec(given, sets=("train.quantization=4bit", "train.gradient_checkpointing=true"))
    weights, keys = 3.1, 4 * 2 * 32 * 1500 * 1280 * 2 / 1e9
    assert training_gb(spec) < weights + keys + 1.5
    assert job_gb(spec) == pytest.approx(weights + keys + 1.5)
    wide = build_spec(given, sets=("train.quantization=none",))
    assert job_gb(wide) == training_gb(wide) > 8
