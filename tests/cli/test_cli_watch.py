"""`lorajob watch`: progress as a job goes on, and how it ends."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorajob.job.jobdir import STAGES
from lorajob.job.report import Progress
from lorajob.job.results import Guard, StageResult, gate_fields
from lorajob.worker.connect import connect
from lorajob.worker.heartbeats import heartbeat
from lorajob.worker.records.batches import Batches, JobBatch
from lorajob.worker.records.record import StageRecord
from lorajob.worker.records.records import Claim, Records
from lorajob.worker.settings import Settings
from tests.support.command import (
    JOB,
    LORAJOB,
    RESULTS,
    environment,
    finished,
    job_record,
    run,
    start,
    succeeded_record,
    url_of,
)
from tests.support.terminal import drain


@pytest.fixture
def records(redis_server: Settings) -> Iterator[Records]:
    """Records of a Redis where both queues seem to have a worker."""
    with connect(redis_server) as client:
        client.flushall()
        heart = heartbeat(client, ["cpu", "gpu"], "test@host")
        heart.start()
        yield Records(client)
        heart.stop()


@pytest.fixture
def env(redis_server: Settings, records: Records, tmp_path: Path) -> dict[str, str]:
    return environment(redis_url=url_of(redis_server), home=tmp_path)


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


def claim(records: Records, stage: str) -> Claim:
    claimed = records.claim(JOB, stage, "test@host", lease_seconds=90, max_losses=5)
    assert isinstance(claimed, Claim)
    return claimed


def read_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """Lines of standard error up to the one with `words`; the process ends after 30 s anyway."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"{words!r} never came: {lines}")


def test_watching_a_job_ends_with_the_table_on_standard_output(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    records.create(succeeded_record(jobs))
    done = run("watch", JOB, env=env)
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["WER", "%", "CER", "%", "clips"],
        ["base", "207.3", "21.5", "100"],
        ["tuned", "52.0", "21.5", "100"],
        ["converted", "52.2", "21.5", "100"],
    ]
    assert f"{JOB} succeeded" in done.stderr.splitlines()[-1]


def test_a_job_that_succeeded_with_a_failed_gate_ends_with_0(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    guard = Guard(name="noise", state="failed", reason="30 words in silence")
    stages = finished(*STAGES)
    found = (stages["convert"].result or StageResult()).as_json() | gate_fields([guard])
    failed = {"result": StageResult.model_validate(found)}
    stages["convert"] = stages["convert"].model_copy(update=failed)
    records.create(job_record(jobs, state="succeeded", stages=stages))
    done = run("watch", JOB, env=env)
    assert done.returncode == 0
    assert f"{JOB} succeeded" in done.stderr.splitlines()[-1]


def test_submit_waits_for_a_job_that_succeeds(
    env: dict[str, str], records: Records, tmp_path: Path
) -> None:
    corpus = tmp_path / "clips.tsv"
    corpus.write_text("audio\ttext\na.wav\tनमस्ते\n", "utf-8")
    with start("submit", "--lang", "hi", "--corpus", str(corpus), "--wait", env=env) as process:
        assert process.stdout is not None
        job_id = process.stdout.readline().strip()
        for stage in STAGES:
            claimed = records.claim(job_id, stage, "test@host", lease_seconds=90, max_losses=5)
            assert isinstance(claimed, Claim)
            records.commit(claimed, RESULTS[stage])
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.stdout.read() == ""
    assert process.returncode == 0
    assert [line for line in told.splitlines() if "convert: succeeded" in line]
    assert ["tuned", "52.0", "21.5", "100"] in [line.split() for line in told.splitlines()]
    assert told.splitlines()[-1].startswith(f"lorajob: {job_id} succeeded; its files: ")
    assert "\x1b" not in told and "\r" not in told


def test_progress_off_a_terminal_is_a_line_now_and_then(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    records.create(job_record(jobs))
    with start("watch", JOB, env=env) as process:
        read_until(process, "preprocess: queued")
        preprocess = claim(records, "preprocess")
        read_until(process, "preprocess: running")
        records.touch(preprocess, Progress(step=1, total=180))  # not worth a line
        progress = Progress(step=90, total=180, loss=1.934, eta_seconds=61.0)
        records.touch(preprocess, progress)
        (line,) = read_until(process, "/180")
        assert line == f"{JOB} preprocess: 90/180, loss 1.93, eta 1 min 1 s\n"
        records.commit(preprocess, RESULTS["preprocess"])
        for stage in STAGES[1:]:
            records.commit(claim(records, stage), RESULTS[stage])
            read_until(process, f"{stage}: succeeded")
        assert process.stdout is not None
        assert "52.0" in process.stdout.read()
    assert process.returncode == 0


def test_a_failed_job_ends_the_watch_with_its_reason(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    records.create(job_record(jobs))
    with start("watch", JOB, env=env) as process:
        read_until(process, "preprocess: queued")
        records.fail(claim(records, "preprocess"), "no usable clip: 12 over 30 s")
        (*_, line) = read_until(process, "no usable clip")
        assert line.startswith(f"lorajob: {JOB} failed: no usable clip: 12 over 30 s")
        assert f"lorajob logs {JOB}" in line
    assert process.returncode == 1


def test_ctrl_c_ends_the_watching_and_not_the_job(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    records.create(job_record(jobs))
    with start("watch", JOB, env=env) as process:
        read_until(process, "preprocess: queued")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130
    assert f"{JOB} continues" in said
    assert "Traceback" not in said
    assert records.load(JOB).state == "queued"


def test_a_terminal_gets_a_bar_a_stage_with_loss_and_eta(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    # as a worker leaves it after preprocess
    stages = finished("preprocess") | {"train": StageRecord(state="queued")}
    records.create(job_record(jobs, state="running", stages=stages))
    claimed = claim(records, "train")
    records.touch(claimed, Progress(step=45, total=180, loss=1.934, eta_seconds=754.2))
    keyboard, terminal = pty.openpty()
    with subprocess.Popen(
        [*LORAJOB, "watch", JOB],
        env=env | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    ) as process:
        os.close(terminal)
        screen = b""
        while b"eta 12 min" not in screen:
            screen += os.read(keyboard, 65536)
        records.fail(claimed, "out of disk")
        screen += drain(keyboard)
        assert process.stdout is not None
        assert process.stdout.read() == ""
    os.close(keyboard)
    shown = screen.decode()
    for words in (*STAGES, "45/180, loss 1.93, eta 12 min", "succeeded in 1 min 12 s", "━"):
        assert words in shown
    assert f"{JOB} failed: out of disk" in shown
    assert process.returncode == 1


def test_a_redis_that_goes_away_does_not_end_the_watch(
    env: dict[str, str], records: Records, jobs: Path, redis_server: Settings
) -> None:
    records.create(job_record(jobs))
    with start("watch", JOB, env=env) as process, connect(redis_server) as client:
        read_until(process, "preprocess: queued")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        records.fail(claim(records, "preprocess"), "no usable clip")
        read_until(process, "failed: no usable clip")
    assert process.returncode == 1


def test_a_batch_with_jobs_that_were_never_queued_has_not_succeeded(
    redis_server, records, env, jobs
):
    ids = [f"hi-0000000{number}" for number in range(3)]
    batch = "batch-0000000a"
    with connect(redis_server) as redis:
        Batches(redis).create(JobBatch(id=batch, created_at=1.0, jobs=tuple(ids)))
    for job_id in ids[:2]:  # then its submission was cut short
        records.create(succeeded_record(jobs, job_id))
    told = json.loads(run("status", batch, "--json", env=env).stdout)
    assert (told["state"], len(told["jobs"])) == ("running", 2)
    done = run("watch", batch, env=env)
    assert done.returncode == 1
    assert "1 never queued; the same batch submitted again is completed" in done.stdout
