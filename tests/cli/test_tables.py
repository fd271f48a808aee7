"""The tables of jobs, on terminals of every width."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.text import Text

from lorajob.cli.jobs import addresses
from lorajob.cli.tables import bar, batch_table, stages_table
from lorajob.job.jobdir import STAGES
from lorajob.job.report import Progress
from lorajob.tasks.words import done_share
from lorajob.worker.connect import connect
from lorajob.worker.heartbeats import heartbeat, living
from lorajob.worker.machine.processes import Identity
from lorajob.worker.records.batches import Batches, JobBatch
from lorajob.worker.records.record import JobRecord, StageRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from lorajob.worker.stack.info import StackInfo
from tests.support.command import (
    LORAJOB,
    environment,
    finished,
    job_record,
    run,
    succeeded_record,
    url_of,
)
from tests.support.service import wait_for
from tests.support.terminal import drain, of_terminal, open_terminal, plain, shown

BATCH = "batch-5e6f7a8b"
HALF = StageRecord(
    state="running",
    progress={"step": 90, "total": 180, "loss": 1.934, "eta_seconds": 754.2},
)


@pytest.fixture
def env(redis_server: Settings, redis: object, tmp_path: Path) -> dict[str, str]:
    return environment(redis_url=url_of(redis_server), home=tmp_path)


@pytest.fixture
def records(redis_server: Settings, redis: object) -> Iterator[Records]:
    with connect(redis_server) as client:
        yield Records(client)


def halfway(jobs: Path, job_id: str, **changes: object) -> JobRecord:
    """A job that is half through training."""
    stages = finished("preprocess") | {"train": HALF}
    return job_record(jobs, job_id, state="running", stages=stages, **changes)


@pytest.fixture
def batch(redis_server: Settings, records: Records, tmp_path: Path) -> list[JobRecord]:
    """A batch of three: one has succeeded, one is half through training, one is queued."""
    jobs = [
        succeeded_record(tmp_path / "jobs", "hi-1a2b3c4d"),
        halfway(tmp_path / "jobs", "yue-2b3c4d5e", language="yue"),
        job_record(tmp_path / "jobs", "pa-in-3c4d5e6f", language="pa-IN"),
    ]
    jobs = [job.model_copy(update={"batch": BATCH}) for job in jobs]
    with connect(redis_server) as redis:
        made = JobBatch(id=BATCH, created_at=1.0, jobs=tuple(job.id for job in jobs))
        Batches(redis).create(made)
    for job in jobs:
        records.create(job)
    return jobs


@pytest.mark.parametrize("columns", [30, 60, 80, 100, 140])
def test_no_id_and_no_state_is_cut_however_narrow_the_terminal(env, batch, columns):
    for args in (["status", BATCH], ["status"]):
        lines = shown(*args, env=env, columns=columns)
        rows = [line.split() for line in lines if len(line) <= columns]
        for job in batch:
            assert any({job.id, job.state} <= set(row) for row in rows), lines
        assert "…" not in "".join(lines)


def test_a_batch_on_a_terminal_of_80_columns_has_bars_progress_and_error_rates(env, batch):
    _, heading, done, half, queued = shown("status", BATCH, env=env, columns=80)
    assert heading.split()[-3:] == ["PROGRESS", "WER", "%"]
    assert done.split()[-2:] == ["100%", "52.0"]
    assert half.split() == [*["yue-2b3c4d5e", "running", "train", "####------", "38%", "90/180"]]
    assert queued.split()[-5:] == ["----------", "0%", "no", "cpu", "worker"]


def test_where_there_is_room_nothing_is_left_out(env, batch):
    text = run("status", BATCH, env=env).stdout  # a pipe has 140 columns
    assert f"{'#' * 8}{'-' * 12}  38%  90/180, loss 1.93, eta 12 min" in text
    assert f"{'#' * 20} 100%" in text
    assert "207.3 -> 52.0" in text


@pytest.fixture
def waiting(redis_server: Settings, records: Records, tmp_path: Path) -> Iterator[list[JobRecord]]:
    """A batch of two, both queued for a card: one of 24 GB, which there is none of, and any."""
    stages = finished("preprocess") | {"train": StageRecord(state="queued")}
    made = {"batch": BATCH, "state": "running", "stages": stages}
    jobs = [
        job_record(tmp_path / "jobs", job_id, memory_class=size, **made)
        for job_id, size in (("hi-1a2b3c4d", 24), ("ml-2b3c4d5e", None))
    ]
    with connect(redis_server) as redis:
        Batches(redis).create(
            JobBatch(id=BATCH, created_at=1.0, jobs=tuple(job.id for job in jobs))
        )
        for job in jobs:
            records.create(job)
        heart = heartbeat(redis, ["gpu"], "test@host")
        heart.start()
        wait_for(lambda: living(redis, "gpu"))
        yield jobs
        heart.stop()


def test_what_a_job_waits_for_stands_in_every_table_and_description(env, waiting):
    words = [
        "a worker of the queue gpu24, with a card of 24 GB or more; none is up",
        "the only worker of the queue gpu to be free",
    ]
    for args in (["status"], ["status", BATCH]):
        lines = shown(*args, env=env, columns=80)
        for job, short in zip(waiting, ("no gpu24 worker", "free gpu worker"), strict=True):
            (row,) = [" ".join(line.split()) for line in lines if job.id in line]
            assert "queued train" in row and short in row
        told = json.loads(run(*args, "--json", env=env).stdout)
        jobs = {job["id"]: job for job in (told if isinstance(told, list) else told["jobs"])}
        assert [jobs[job.id]["waits_for"] for job in waiting] == words
        assert {job["state"] for job in jobs.values()} == {"running"}
    assert "2 queued" in lines[0]
    for job, long in zip(waiting, words, strict=True):
        told = json.loads(run("status", job.id, "--json", env=env).stdout)
        assert told["waits_for"] == long
        assert f"waits for  {long}\n" in run("status", job.id, env=env).stdout


def test_a_job_that_runs_or_has_ended_waits_for_nothing(env, batch):
    told = json.loads(run("status", BATCH, "--json", env=env).stdout)["jobs"]
    waits = [None, None, "a worker of the queue cpu; none is up"]
    assert [job["waits_for"] for job in told] == waits


def test_the_jobs_on_a_terminal_of_80_columns_have_their_batch_progress_and_error_rates(env, batch):
    lines = shown("status", env=env, columns=140)
    assert [line.split()[-1] for line in lines] == ["BATCH", *[BATCH] * 3]
    lines = shown("status", env=env, columns=80)
    assert lines[0].split() == ["JOB", "STATE", "PROGRESS", "WER", "%", "CORPUS", "BASE"]
    assert "207.3 -> 52.0" in next(line for line in lines if line.startswith("hi-1a2b3c4d"))
    assert "90/180" in next(line for line in lines if line.startswith("yue-2b3c4d5e"))
    assert "52.0" in next(line for line in lines if line.startswith("hi-1a2b3c4d"))


def test_jobs_of_no_batch_have_no_column_for_it(env, records, tmp_path):
    records.create(job_record(tmp_path / "jobs"))
    assert "BATCH" not in run("status", env=env).stdout


def test_the_batch_of_every_job_stands_in_its_description(env, records, batch, tmp_path):
    records.create(job_record(tmp_path / "jobs", "hi-single", created_at=1.0))
    listed = json.loads(run("status", "--json", env=env).stdout)
    assert [job["batch"] for job in listed] == [*[BATCH] * 3, None]


def test_who_asks_for_an_unknown_batch_is_told_the_newest(env, redis_server):
    assert run("status", "batch-x", env=env).stderr.endswith("is unknown; no batch exists\n")
    with connect(redis_server) as redis:
        for number in range(7):
            made = JobBatch(id=f"batch-{number}", created_at=number, jobs=("hi-1",))
            Batches(redis).create(made)
    for command in ("status", "watch", "cancel", "retry"):
        done = run(command, "batch-x", env=env)
        newest = "batch-6, batch-5, batch-4, batch-3, batch-2"
        said = f"lorajob: batch: 'batch-x' is unknown; the newest are {newest}\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize(
    ("stages", "share"),
    [
        ({}, 0.0),
        ({"preprocess": HALF}, 0.125),
        (finished("preprocess") | {"train": HALF}, 0.375),
        (finished("preprocess") | {"train": StageRecord(state="running")}, 0.25),
        (finished(*STAGES), 1.0),
    ],
)
def test_every_stage_is_a_quarter_of_a_job(tmp_path, stages, share):
    record = job_record(tmp_path)
    assert done_share(record.model_copy(update={"stages": record.stages | stages})) == share


def test_a_bar_is_as_long_as_what_is_done():
    assert bar(0.0, 10) == "----------   0%"
    assert bar(0.45, 20) == "#########-----------  45%"
    assert bar(1.0, 10) == "########## 100%"
    assert bar(0.45, 0) == "45%"


def test_a_batch_of_which_nothing_is_queued_yet_is_an_empty_table():
    assert batch_table([], {}, 80).row_count == 0


def test_who_watches_a_batch_sees_its_work_go_on(env, redis_server, records, tmp_path):
    made = [job_record(tmp_path / "jobs", job, batch=BATCH) for job in ("hi-1", "mr-2")]
    with connect(redis_server) as redis:
        Batches(redis).create(JobBatch(id=BATCH, created_at=1.0, jobs=("hi-1", "mr-2")))
    for job in made:
        records.create(job)
    claims = [records.claim(job.id, "preprocess", "test@host", 90, 5) for job in made]
    keyboard, terminal = open_terminal(80)
    with subprocess.Popen(
        [*LORAJOB, "watch", BATCH],
        env=of_terminal(env),
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    ) as process:
        os.close(terminal)
        screen = b""
        for step in (45, 135):
            records.touch(claims[0], Progress(step=step, total=180, loss=1.9))
            while f"{step}/180".encode() not in screen:
                screen += os.read(keyboard, 65536)
        for claimed in claims:
            records.fail(claimed, "out of disk")
        screen += drain(keyboard)
        assert process.stdout is not None
        assert "2 failed" in process.stdout.read()
    os.close(keyboard)
    assert process.returncode == 1
    drawn = " ".join(" ".join(plain(screen)).split())
    for words in ("#--------- 6% 45/180,", "##-------- 19% 135/180,"):
        assert f"hi-1 running preprocess {words} loss 1.9" in drawn


def test_status_knows_where_the_pages_and_the_speech_to_text_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))
    monkeypatch.delenv("LORAJOB_REDIS_URL", raising=False)
    assert addresses() == []
    info = StackInfo(
        redis_url="redis://127.0.0.1:1/0", supervisor=Identity(pid=1, started=1), ready=True
    )
    info.save(tmp_path)
    assert addresses() == []
    info = info.model_copy(
        update={"web_url": "http://127.0.0.1:8080", "serve_url": "http://127.0.0.1:8000"}
    )
    info.save(tmp_path)
    assert addresses() == [
        "pages at http://127.0.0.1:8080",
        "speech to text at http://127.0.0.1:8000/v1",
    ]


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (
            100,
            ["train", "running", "1", "4 min 8 s", "90/180, loss 1.93, eta 12 min", "gpu-1@host"],
        ),
        (83, ["train", "running", "1", "4 min 8 s", "90/180, loss 1.93, eta 12 min", "gpu-1"]),
        (75, ["train", "running", "1", "4 min 8 s", "90/180, loss 1.93, eta 12 min"]),
        (65, ["train", "running", "4 min 8 s", "90/180, loss 1.93, eta 12 min"]),
        (45, ["train", "running", "4 min 8 s", "90/180"]),
        (30, ["train", "running", "4 min 8 s"]),
    ],
)
def test_the_stages_of_a_job_keep_their_names_and_states(
    tmp_path: Path, width: int, row: list[str]
) -> None:
    stage = HALF.model_copy(update={"attempts": 1, "started_at": 1.0, "worker": "gpu-1@host"})
    record = job_record(tmp_path, stages=finished("preprocess") | {"train": stage})
    table = stages_table(record, 249.0, width)
    cells = [list(column.cells)[1] for column in table.columns]
    assert [Text.from_markup(str(cell)).plain for cell in cells] == row
