"""What Flower shows of the tests' service."""

import json

from tests.support.browser import get
from tests.support.service import FLOWER_PASSWORD

# What a task does with its progress, in a process that finds Redis as a worker does.
SHOW_PROGRESS = """
import sys, time
from lorajob.tasks.attempt import ProgressMirror
from lorajob.tasks.stages import train
from lorajob.job.report import Progress
train.push_request(id=sys.argv[2], hostname="gpu@test")
with ProgressMirror(train, sys.argv[1], "hi", "train") as mirror:
    mirror.hear(Progress(step=5, total=180, loss=2.125, eta_seconds=61.0))
    while train.AsyncResult(sys.argv[2]).state != "PROGRESS":
        time.sleep(0.05)
"""


def fetch(service, path: str, user: str | None = "lorajob", password: str = FLOWER_PASSWORD) -> str:
    return get(service.info.flower_url + path, user, password)


def tasks_of(service, job_id: str) -> dict[str, dict]:
    tasks = json.loads(fetch(service, "api/tasks"))
    return {uuid: task for uuid, task in tasks.items() if job_id in (task["args"] or "")}
