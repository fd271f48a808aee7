"""LORAJOB_LOG_FORMAT=json: every line of workers, supervisors and stages is one JSON object."""

import json
import logging
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from lorajob import logs
from lorajob.job.jobdir import STAGES, JobDir
from lorajob.tasks.broker import send
from lorajob.worker.records.records import Records
from tests.support.command import environment, start, url_of
from tests.support.service import new_job, settings_for, wait_for
from tests.support.watched import logs_of, workers


def objects(text: str) -> list[dict]:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys()
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    return lines


def test_a_line_names_what_is_bound_and_holds_its_traceback(monkeypatch):
    formatter = logs.JsonFormatter()
    try:
        raise ValueError("of two\nlines")
    except ValueError:
        record = logging.LogRecord("a", 40, "f", 1, "सुन %s", ("ो\nना",), sys.exc_info())
    with logs.bound(job="hi-1", stage="train", attempt=2, worker=None):
        text = formatter.format(record)
    (line,) = objects(text)
    assert line["message"] == "सुन ो\nना" and line["level"] == "error"
    assert (line["job"], line["stage"], line["attempt"]) == ("hi-1", "train", 2)
    assert "worker" not in line
    assert "ValueError: of two\nlines" in line["traceback"]
    assert "job" not in json.loads(formatter.format(record))


def stage_log(tmp_path: Path, env: dict[str, str]) -> str:
    """What a stage without a job says."""
    command = [sys.executable, "-m", "lorajob.stage", "train", str(tmp_path), "--attempt", "3"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    return done.stderr


def test_a_stage_logs_text_or_json(tmp_path):
    assert " ERROR __main__: " in stage_log(tmp_path, environment())
    line = objects(stage_log(tmp_path, environment(log_format="json")))[-1]
    assert line["level"] == "error" and "no spec.json" in line["message"]
    assert (line["job"], line["stage"], line["attempt"]) == (tmp_path.name, "train", 3)


def test_an_uncaught_error_is_one_line(tmp_path):
    code = "from lorajob import logs; logs.configure(); 1 / 0"
    env = environment(log_format="json")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    (line,) = objects(done.stderr)
    assert done.returncode == 1
    assert line["level"] == "critical" and "ZeroDivisionError" in line["traceback"]


def test_the_scaler_logs_json(redis_server, tmp_path):
    env = environment(redis_url=url_of(redis_server), home=tmp_path, log_format="json")
    path = tmp_path / "scaler.log"
    with path.open("w") as log:
        options = ("--min", "1", "--max", "1", "--gpus", "none")
        process = start("autoscale", *options, env=env, stdout=log, stderr=log)
    try:
        wait_for(lambda: "starts; 1 now" in path.read_text("utf-8"))
    finally:
        process.terminate()
        process.wait(timeout=240)
    line = objects(path.read_text("utf-8").splitlines()[0])[0]
    assert (line["level"], line["logger"]) == ("info", "lorajob.worker.machine.autoscale")


def test_workers_and_supervisors_log_json_and_name_the_job(redis_server, tmp_path):
    url = redis_server.redis_url.get_secret_value()
    settings = settings_for(tmp_path, url).model_copy(update={"log_format": "json"})
    with workers(settings) as redis:
        record = new_job(settings, Records(redis), "hi-00000051", STAGES)
        send(record, settings)
        wait_for(lambda: Records(redis).load(record.id).state == "succeeded", 60)
    lines = objects(logs_of(settings))
    done = [line for line in lines if "succeeded" in line["message"] and "task" in line]
    assert {line["stage"] for line in done} == set(STAGES)
    notes = objects(JobDir(Path(record.folder)).log_path("train").read_text())
    begin = next(line for line in notes if "begins" in line["message"])
    assert (begin["job"], begin["stage"], begin["attempt"]) == (record.id, "train", 1)
    assert begin["worker"].startswith("gpu-watched@")
