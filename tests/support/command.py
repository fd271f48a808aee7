"""The `lorajob` command as a user runs it, and jobs made for it to show."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lorajob.job.jobdir import STAGES
from lorajob.job.results import StageResult
from lorajob.worker.records.record import JobRecord, StageRecord, new_stages
from lorajob.worker.settings import Settings

LORAJOB = [sys.executable, "-m", "lorajob.cli.main"]
JOB = "hi-1a2b3c4d"
SCORES = {"wer": 52.04, "cer": 21.5, "raw_wer": 60.0, "raw_cer": 25.0, "clips": 100}
RESULTS = {
    "preprocess": StageResult(train_clips=500, test_clips=100),
    "train": StageResult(steps=180, loss=0.4),
    "evaluate": StageResult(base=SCORES | {"wer": 207.31}, tuned=SCORES),
    "convert": StageResult(converted=SCORES | {"wer": 52.18}, model="convert/model"),
}


def environment(**variables: str | Path) -> dict[str, str]:
    """This process's, but for LORAJOB_* variables, which are those given in lower case."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LORAJOB_")}
    named = {f"LORAJOB_{key.upper()}": str(value) for key, value in variables.items()}
    kept.pop("PYTHONUNBUFFERED", None)  # with it Python loses what a closed pipe refused
    return kept | named | {"COLUMNS": "80"}


def url_of(settings: Settings) -> str:
    """The url of a test's Redis, with its password."""
    assert settings.redis_url is not None
    return settings.redis_url.get_secret_value()


def run(
    *args: str, env: dict[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `lorajob ARGS` to its end."""
    return subprocess.run(
        [*LORAJOB, *args], env=env, cwd=cwd, capture_output=True, text=True, timeout=300
    )


def start(*args: str, env: dict[str, str], **options: Any) -> subprocess.Popen[str]:
    """Start `lorajob ARGS` with pipes to read from."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    line = [*LORAJOB, *args]
    return subprocess.Popen(line, env=env, text=True, preexec_fn=_heed_ctrl_c, **pipes)


def _heed_ctrl_c() -> None:
    """As at a terminal; what a shell starts in the background ignores SIGINT, its heirs too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finished(*stages: str) -> dict[str, StageRecord]:
    """The stages of a job that has finished the first ones."""
    done = {
        name: StageRecord(
            state="succeeded",
            attempts=1,
            worker="gpu@host",
            started_at=100.0,
            finished_at=172.0,
            result=RESULTS[name],
        )
        for name in stages
    }
    return new_stages() | done


def job_record(jobs: Path, job_id: str = JOB, **changes: Any) -> JobRecord:
    """A record whose folder lies below `jobs`; the folder is made."""
    folder = jobs / job_id
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "id": job_id,
        "language": "hi",
        "created_at": time.time() - 130,
        "corpus": "/corpora/hi.tar.gz",
        "base_model": "demo/whisper-base",
        "folder": str(folder),
        "stages": new_stages(),
    }
    return JobRecord(**(values | changes))


def succeeded_record(jobs: Path, job_id: str = JOB) -> JobRecord:
    """A job with all stages behind it."""
    return job_record(jobs, job_id, state="succeeded", stages=finished(*STAGES))
