"""The command line: what each command prints, where, and how soon."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from lorajob import __version__
from lorajob.cli.main import COMMANDS, cli
from lorajob.job.jobdir import STAGES
from lorajob.spec import PRESETS, JobSpec, setting_names
from lorajob.worker.connect import connect
from lorajob.worker.records.record import StageRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import (
    JOB,
    LORAJOB,
    environment,
    finished,
    job_record,
    run,
    start,
    succeeded_record,
    url_of,
)
from tests.support.ports import free_port

HELP_SECONDS = 0.3  # on a machine where Python and click take CLICK_SECONDS
CLICK_SECONDS = 0.06
WIDTHS = (60, 72, 80, 100)
STATUS_SCHEMA = Path(__file__).parents[1] / "data" / "status.schema.json"


@pytest.fixture
def env(redis_server: Settings, tmp_path: Path) -> dict[str, str]:
    with connect(redis_server) as client:
        client.flushall()
    return environment(redis_url=url_of(redis_server), home=tmp_path)


@pytest.fixture
def records(redis_server: Settings) -> Iterator[Records]:
    with connect(redis_server) as client:
        yield Records(client)


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


def cpu_seconds(*args: str) -> float:
    """Processor time of one command, which load on the machine hardly changes."""
    with subprocess.Popen(args, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("args", [("--help",), ("submit", "--help"), ("--version",)])
def test_help_answers_at_once(args: tuple[str, ...]) -> None:
    """It takes a small multiple of what Python and click take. Celery alone takes ten times it."""
    least = min(cpu_seconds(sys.executable, "-c", "import click, json, logging") for _ in range(3))
    spent = min(cpu_seconds(*LORAJOB, *args) for _ in range(3))
    assert spent < HELP_SECONDS * max(1, least / CLICK_SECONDS)
    assert spent < 4 * least


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_loads_neither_torch_nor_celery_nor_pydantic(name: str) -> None:
    code = (
        f"import sys; from lorajob.cli.main import main; main({[*name.split(), '--help']}); "
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split("'"))
    assert "click" in loaded
    assert not loaded & {"torch", "celery", "pydantic", "redis", "rich", "yaml", "numpy"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_breaks_no_word_and_no_command(name: str) -> None:
    text = cli.get_command(None, name).help
    for width in WIDTHS:
        shown = CliRunner().invoke(cli, [name, "--help"], terminal_width=width).output
        assert not re.search(r"\w-\n", shown), (width, shown)
        for command in re.findall(r"`[^`\n]+`", text):
            assert command in shown, width
        assert shown.isascii()


def test_the_help_of_the_group_agrees_with_its_commands() -> None:
    listing = run("--help", env=environment()).stdout
    for name, (_, text) in COMMANDS.items():
        command = cli.get_command(None, name)
        assert command is not None
        assert command.name == name
        assert command.help
        assert text in " ".join(listing.split())


def test_the_help_of_submit_names_every_setting_with_default_and_meaning() -> None:
    text = " ".join(run("submit", "--help-all", env=environment()).stdout.split())
    for name in setting_names():
        if "." in name:
            config, _, field = name.partition(".")
            kind = JobSpec.model_fields[config].annotation
            description = kind.model_fields[field].description
            assert f"{name}=" in text
            assert description
            assert " ".join(description.split()) in text
    for preset in PRESETS:
        assert f" {preset} " in text
    for word in ("LORAJOB_CORPORA", "demo/whisper-base", "CTranslate2", "Exit code", "Examples"):
        assert word in text


def test_the_version_is_the_package_version() -> None:
    assert run("--version", env=environment()).stdout == f"lorajob, version {__version__}\n"


def test_status_json_of_every_state_keeps_its_contract(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    running = StageRecord(
        state="running", attempts=2, started_at=1.0, progress={"step": 5, "total": 180, "loss": 2.1}
    )
    records.create(job_record(jobs, "hi-queued"))
    records.create(
        job_record(
            jobs, "hi-running", state="running", stages=finished("preprocess") | {"train": running}
        )
    )
    records.create(succeeded_record(jobs, "hi-succeeded"))
    records.create(job_record(jobs, "hi-failed", state="failed", error="no usable clip"))
    records.create(job_record(jobs, "hi-cancelled", state="cancelled"))
    validator = jsonschema.Draft202012Validator(json.loads(STATUS_SCHEMA.read_text("utf-8")))
    listed = json.loads(run("status", "--json", env=env).stdout)
    assert len(listed) == 5
    for job in listed:
        validator.validate(job)
        assert json.loads(run("status", job["id"], "--json", env=env).stdout) == job
    metrics = next(job for job in listed if job["id"] == "hi-succeeded")["metrics"]
    assert metrics["base"] == {"wer": 207.31, "cer": 21.5, "wer_interval": None, "clips": 100}
    assert metrics["converted"]["wer"] == 52.18


def test_status_lists_jobs_in_a_table_newest_first(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    running = StageRecord(
        state="running",
        progress={"step": 45, "total": 180, "loss": 1.934, "eta_seconds": 754.2},
    )
    records.create(succeeded_record(jobs, "hi-older").model_copy(update={"created_at": 1.0}))
    stages = finished("preprocess") | {"train": running}
    records.create(job_record(jobs, "ml-newer", language="ml", state="running", stages=stages))
    _, newer, older = run("status", env=env).stdout.splitlines()
    assert newer.split()[:4] == ["ml-newer", "ml", "running", "train"]
    assert "45/180, loss 1.93, eta 12 min" in newer
    assert "207.3 -> 52.0" in older


def test_status_of_a_job_shows_stages_rates_and_where_its_files_are(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    record = succeeded_record(jobs)
    records.create(record)
    text = run("status", JOB, env=env).stdout
    assert record.folder in text
    for stage in STAGES:
        assert f"{stage} " in text
    assert "1 min 12 s" in text  # what each stage took
    rows = [line.split() for line in text.splitlines()]
    assert ["base", "207.3", "21.5", "100"] in rows
    assert ["tuned", "52.0", "21.5", "100"] in rows
    assert ["converted", "52.2", "21.5", "100"] in rows


def test_no_jobs_is_an_empty_list_and_a_hint(env: dict[str, str]) -> None:
    assert json.loads(run("status", "--json", env=env).stdout) == []
    empty = run("status", env=env)
    assert empty.stdout == ""
    assert "lorajob submit" in empty.stderr


def test_status_answers_from_job_json_while_redis_is_away(tmp_path: Path, jobs: Path) -> None:
    succeeded_record(jobs).save()
    away = environment(redis_url=f"redis://127.0.0.1:{free_port()}/0", home=tmp_path)
    done = run("status", JOB, "--json", env=away)
    assert done.returncode == 0
    assert json.loads(done.stdout)["state"] == "succeeded"
    assert "job.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_logs_come_in_the_order_of_the_stages(tmp_path: Path, jobs: Path) -> None:
    log = Path(job_record(jobs).folder) / "log"
    log.mkdir()
    (log / "train.log").write_text("step 1\n", "utf-8")
    (log / "preprocess.log").write_text("आ 500 clips\n", "utf-8")
    env = environment(home=tmp_path)  # no Redis: files are enough
    text = run("logs", JOB, env=env).stdout
    assert text == "==> preprocess <==\nआ 500 clips\n==> train <==\nstep 1\n"
    assert run("logs", JOB, "--stage", "train", env=env).stdout == "step 1\n"
    assert run("logs", JOB, "--stage", "convert", env=env).stdout == ""


def test_following_logs_ends_with_the_job(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    record = job_record(jobs, state="running")
    records.create(record)
    log = Path(record.folder) / "log"
    log.mkdir()
    (log / "train.log").write_text("step 1\n", "utf-8")
    with start("logs", JOB, "-f", "--stage", "train", env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "step 1\n"
        with (log / "train.log").open("a", encoding="utf-8") as file:
            file.write("step 2\n")
        assert process.stdout.readline() == "step 2\n"
        assert records.cancel(JOB) == "cancelled"
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, jobs: Path) -> None:
    log = Path(job_record(jobs).folder) / "log"
    log.mkdir()
    (log / "train.log").write_text("a line\n" * 200_000, "utf-8")
    with start("logs", JOB, env=environment(home=tmp_path)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_cancel_withdraws_a_queued_job_in_one_line(
    env: dict[str, str], records: Records, jobs: Path
) -> None:
    records.create(job_record(jobs))
    done = run("cancel", JOB, env=env)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert records.load(JOB).state == "cancelled"
