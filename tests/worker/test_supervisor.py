import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lorajob.job.jobdir import JobDir
from lorajob.job.report import Progress
from lorajob.job.results import StageResult
from lorajob.worker.machine.processes import identity_of
from lorajob.worker.supervision import supervisor
from lorajob.worker.supervision.outcome import Committed, Crashed, Failed, Stopped
from lorajob.worker.supervision.supervisor import child_environment, supervise
from tests.support.service import wait_for

FAKE = (sys.executable, str(Path(__file__).parents[1] / "support" / "fake_stage.py"))


@pytest.fixture
def job(tmp_path: Path) -> JobDir:
    return JobDir(tmp_path / "hi-1a2b3c4d")


class Watch:
    """Remembers the progress it was told and answers `reason` once there was any."""

    def __init__(self, reason=None):
        self.reason = reason
        self.progress = []

    def hear(self, progress):
        if progress is not None:
            self.progress.append(progress)
        return self.reason if self.progress else None


def run(what, job, watch=None, grace_seconds=120.0, **options):
    options = {"grace_seconds": grace_seconds, "worker": "me@here", "command": FAKE} | options
    return supervise(what, job, 7, watch or Watch(), **options)


def test_a_finished_stage_is_committed_with_the_result_of_its_manifest(job):
    assert run("preprocess", job) == Committed(StageResult(answer=42, none=[]))


def test_the_log_holds_the_attempt_and_what_the_stage_printed(job):
    run("preprocess", job)
    log = job.log_path("preprocess").read_text()
    assert "attempt 7 begins on me@here" in log
    assert "a library that prints" in log
    assert "and one that warns" in log
    assert log.endswith("supervisor: attempt 7: succeeded\n")


def test_a_stage_is_told_neither_redis_nor_any_password(job, monkeypatch):
    for name in ("LORAJOB_REDIS_URL", "LORAJOB_FLOWER_PASSWORD", "FLOWER_BASIC_AUTH"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LORAJOB_HOME", "kept")
    run("preprocess", job)
    environment = json.loads((job.stage_dir("preprocess") / "environment.json").read_text())
    assert "secret" not in environment.values()
    assert environment["LORAJOB_HOME"] == "kept"


def test_a_stage_that_is_cancelled_ends_by_itself_after_one_signal(job):
    watch = Watch("cancelled")
    assert run("train", job, watch, grace_seconds=60) == Stopped("cancelled")
    assert watch.progress == [Progress(step=1, total=2, loss=2.5, eta_seconds=9.0)]


def test_a_stage_that_ignores_the_signal_is_killed_with_its_children_after_the_grace(job):
    assert run("stubborn", job, Watch("shutdown"), grace_seconds=0.3) == Stopped("shutdown")
    pids = [int(pid) for pid in (job.root / "pids").read_text().split()]
    wait_for(lambda: not any(identity_of(pid) for pid in pids))


def test_a_stage_whose_claim_is_lost_is_killed_at_once(job):
    assert run("stubborn", job, Watch("superseded"), grace_seconds=600) == Stopped("superseded")


def test_a_stage_that_reports_no_step_for_too_long_is_stopped(job):
    assert run("train", job, stall_seconds=0.5) == Stopped("stalled")
    assert run("stubborn", job, grace_seconds=0.3, stall_seconds=0.5) == Stopped("stalled")


def test_a_log_that_cannot_be_written_ends_no_supervision(job):
    job.log_path("train").parent.mkdir(parents=True)
    job.log_path("train").symlink_to("/dev/full")
    assert run("train", job, Watch("cancelled")) == Stopped("cancelled")


def test_a_stage_that_fails_says_why_in_one_sentence(job):
    message = "corpus: no usable clip (3 unreadable audio)"
    assert run("failing", job) == Failed("corpus", message)
    assert message in job.log_path("failing").read_text()


def test_a_bug_in_a_stage_points_at_the_log_with_its_traceback(job):
    message = "stage buggy ended with exit code 1; see log/buggy.log"
    assert run("buggy", job) == Crashed(1, message)  # 1 is Python's code, too, but no event came
    assert "ZeroDivisionError: a bug of this stage" in job.log_path("buggy").read_text()


def test_a_stage_killed_from_outside_names_the_signal(job):
    message = (
        "stage killed was ended by SIGKILL, as a machine out of memory does; see log/killed.log"
    )
    assert run("killed", job) == Crashed(-9, message)


def test_no_stage_outlives_a_supervisor_that_is_killed(job):
    code = (
        "from lorajob.job.jobdir import JobDir;"
        "from lorajob.worker.supervision.supervisor import supervise;"
        "from lorajob.worker.supervision.watcher import Watcher;"
        f"from pathlib import Path; supervise('stubborn', JobDir(Path({str(job.root)!r})), 1,"
        f" Watcher([]), grace_seconds=60, command={FAKE!r})"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: (job.root / "pids").exists() and (job.root / "pids").read_text())
    pids = [int(pid) for pid in (job.root / "pids").read_text().split()]
    assert all(identity_of(pid) for pid in pids)
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    wait_for(lambda: not any(identity_of(pid) for pid in pids))


def test_a_stage_of_the_cpu_queue_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert child_environment(gpu=True)["CUDA_VISIBLE_DEVICES"] == "1"
    assert child_environment(gpu=False)["CUDA_VISIBLE_DEVICES"] == ""


def test_the_last_progress_of_a_stage_is_passed_on_after_its_end(job, monkeypatch):
    monkeypatch.setattr(supervisor, "PROGRESS_SECONDS", 600)
    watch = Watch()
    assert isinstance(run("preprocess", job, watch, watch_seconds=600), Committed)
    assert watch.progress == [Progress(step=2, total=2)]


def test_of_the_secrets_a_stage_gets_only_those_of_downloads_and_trackers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = {
        "HF_TOKEN": "h",
        "MDC_API_KEY": "m",
        "LORAJOB_API_KEY": "a",
        "LORAJOB_SIGNING_KEY": "s",
        "LORAJOB_FLOWER_PASSWORD": "f",
        "LORAJOB_METRICS_PASSWORD": "p",
        "LORAJOB_WEBHOOK_SECRET": "w",
        "LORAJOB_REDIS_URL": "redis://:r@127.0.0.1/0",
        "AWS_SECRET_ACCESS_KEY": "k",
        "WANDB_API_KEY": "b",
        "MLFLOW_TRACKING_PASSWORD": "l",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    assert secrets.keys() & child_environment().keys() == {
        "HF_TOKEN",
        "MDC_API_KEY",
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_PASSWORD",
    }
