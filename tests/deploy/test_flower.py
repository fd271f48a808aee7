import json
import os
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest

from lorajob.errors import UsageError
from lorajob.worker.machine.launch import flower_command, flower_environment
from tests.support.flower import SHOW_PROGRESS, fetch, tasks_of
from tests.support.service import FLOWER_PASSWORD, command_lines, settings_for, wait_for

PROBE = Path(__file__).parents[2] / "deploy" / "alive.py"


@pytest.mark.parametrize(
    "path", ["", "tasks", "workers", "broker", "api/tasks", "metrics", "healthcheck", "nowhere"]
)
def test_flower_shows_nothing_without_the_password(service, path):
    for user, password in ((None, ""), ("lorajob", "wrong"), ("other", FLOWER_PASSWORD)):
        with pytest.raises(urllib.error.HTTPError) as error:
            fetch(service, path, user, password)
        assert error.value.code == 401
        error.value.close()


def test_the_probe_of_flowers_container_knows_the_password(service):
    port = service.info.flower_url.rstrip("/").rpartition(":")[2]

    def probe(password):
        env = os.environ | {"LORAJOB_FLOWER_PASSWORD": password}
        command = [sys.executable, "-IS", str(PROBE), "flower", port]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)

    assert (probe(FLOWER_PASSWORD).returncode, probe(FLOWER_PASSWORD).stderr) == (0, "")
    refused = probe("wrong")
    assert (refused.returncode, refused.stderr) == (1, "") and "401" in refused.stdout


def test_flower_listens_on_loopback_only(service):
    assert service.info.flower_url.startswith("http://127.0.0.1:")
    port = int(service.info.flower_url.rstrip("/").rpartition(":")[2])
    table = Path("/proc/net/tcp").read_text("ascii").splitlines()
    listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    assert [host for host in listening if int(host[-4:], 16) == port] == [f"0100007F:{port:04X}"]


def test_flower_shows_arguments_and_results_of_a_jobs_tasks(service):
    record = service.new_job("hi-00000021")
    service.send(record)
    service.wait_until(record.id, "succeeded")
    wait_for(
        lambda: [task["state"] for task in tasks_of(service, record.id).values()] == ["SUCCESS"] * 4
    )
    by_name = {task["name"]: task for task in tasks_of(service, record.id).values()}
    assert set(by_name) == {f"lorajob.{stage}" for stage in record.stages}
    train, evaluate = by_name["lorajob.train"], by_name["lorajob.evaluate"]
    assert train["args"] == "hi-00000021 (Hindi, train)"
    assert train["kwargs"] == "language=hi stage=train base=openai/whisper-small"
    assert train["result"] == "{'steps': 4, 'loss': 1.5}"
    assert evaluate["result"] == "{'base_wer': 200.0, 'tuned_wer': 50.0}"
    assert service.redis.hget(f"lorajob:job:{record.id}", "evaluate.result").count("wer") > 2


def test_flower_and_celery_show_progress(service):
    record = service.new_job("hi-00000022")
    env = os.environ | {"LORAJOB_HOME": str(service.settings.home)}
    uuid = "0f0f0f0f-0000-4000-8000-000000000022"
    command = [sys.executable, "-c", SHOW_PROGRESS, record.id, uuid]
    env["LORAJOB_ARTIFACTS"] = str(service.settings.jobs)
    subprocess.run(command, env=env, check=True, timeout=240)
    wait_for(lambda: uuid in json.loads(fetch(service, "api/tasks")))
    # Flower hears of the task before it hears of its progress.
    wait_for(lambda: "PROGRESS" in fetch(service, f"task/{uuid}"))
    page = fetch(service, f"task/{uuid}")
    assert "hi train 5/180 (2 %), loss 2.125, 61 s left" in page
    meta = json.loads(service.redis.get(f"celery-task-meta-{uuid}"))
    assert meta["status"] == "PROGRESS"
    shown = {"language": "hi", "stage": "train", "step": 5, "total": 180, "percent": 2}
    assert shown.items() <= meta["result"].items()


def test_flowers_arguments_hold_no_password(service):
    line = command_lines()[service.info.processes["flower"].pid]
    assert "flower" in line and FLOWER_PASSWORD not in line and "basic" not in line
    assert FLOWER_PASSWORD not in " ".join(flower_command(5555, "127.0.0.1"))


@pytest.mark.parametrize(
    ("user", "password"), [("me", None), ("me", ""), ("me", "a,b"), ("a:b", "c")]
)
def test_flower_is_not_run_with_a_password_that_protects_nothing(tmp_path, user, password):
    settings = settings_for(tmp_path, "redis://127.0.0.1/0").model_dump()
    changed = settings_for(tmp_path, "redis://127.0.0.1/0").__class__.model_validate(
        settings | {"flower_user": user, "flower_password": password}
    )
    with pytest.raises(UsageError, match="LORAJOB_FLOWER_PASSWORD"):
        flower_environment(changed)


def test_an_open_door_in_the_environment_is_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWER_UNAUTHENTICATED_API", "true")
    env = flower_environment(settings_for(tmp_path, "redis://127.0.0.1/0"))
    assert "FLOWER_UNAUTHENTICATED_API" not in env
    assert env["FLOWER_BASIC_AUTH"] == f"lorajob:{FLOWER_PASSWORD}"
