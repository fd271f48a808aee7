"""Time submitting, reading and reconciling with ten thousand jobs in one Redis.

    python bench/records.py --jobs 10000

The script starts its own Redis and no workers. Most of the jobs have ended, as after a year. A
thousand are submitted, timed and waiting.
"""

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from subprocess import check_output
from typing import Any, cast
from uuid import uuid4

from celery import Celery
from celery.app.task import Context
from pydantic import SecretStr
from redis.exceptions import RedisError

from lorajob.errors import ServiceError
from lorajob.job.jobdir import STAGES
from lorajob.job.report import Progress
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.tasks.batches import submit_batch
from lorajob.tasks.describe import stage_summary
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.listing import JobFilter, list_jobs, page_jobs
from lorajob.tasks.reconciler import Reconciler
from lorajob.worker.app import configuration
from lorajob.worker.connect import connect, redis_url
from lorajob.worker.machine.processes import end
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings
from lorajob.worker.stack.redis_server import find_server, free_port
from lorajob.worker.stack.services import Kept, redis_service

SCORE = {"wer": 53.7, "cer": 22.1, "raw_wer": 60.2, "raw_cer": 24.3, "clips": 2900}
RESULTS: dict[str, dict[str, Any]] = {
    "preprocess": {
        "train_clips": 8000, "test_clips": 2900, "train_seconds": 40123.5, "bytes": 1_300_000_000,
        "dropped": {"no sentence": 12, "too long": 33},
    },
    "train": {"steps": 3000, "loss": 0.212, "seconds": 7200.5},
    "evaluate": {"base": SCORE, "tuned": SCORE},
    "convert": {"converted": SCORE, "warnings": [], "compute_types": ["float16"]},
}  # fmt: skip
SUBMITTED = 1000  # by default
SHOWN = 50
PASSWORD = "of-this-bench-alone"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--submitted", type=int, default=SUBMITTED, help="of these jobs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorajob-records-") as name, _redis(Path(name)) as home:
        took = measure(home, args.jobs, args.submitted)
    print(f"{args.jobs} jobs, {args.submitted} of them submitted and waiting:\n")
    print("| what | measured |\n| --- | ---: |")
    for what, value in took.items():
        print(f"| {what} | {value} |")
    return 0


def measure(settings: Settings, count: int, submitted: int) -> dict[str, str]:
    """The time of each operation, as text."""
    jobs = Jobs(settings)
    manifest = settings.home / "clips.tsv"
    manifest.write_text("audio\ttext\na.wav\tनमस्ते\n", "utf-8")
    specs = [JobSpec(language="hi", corpus=str(manifest), seed=seed) for seed in range(count)]
    took: dict[str, str] = {}
    with _seconds(took, f"submit {submitted}, one batch"):
        submit_batch(jobs, specs[:submitted])
    for spec in specs[submitted:]:
        ended(jobs, spec)
    with _seconds(took, "newest 50, as `status` reads them"):
        jobs.newest(50)
    command = [sys.executable, "-m", "lorajob.cli.main", "status"]
    with _seconds(took, "`lorajob status`, start of Python included"):
        check_output(command, env=settings.environment() | _url(settings))
    took["memory of Redis, records and messages"] = _memory(jobs)
    with _seconds(took, "the first list sorted by word errors, which places all jobs"):
        list_jobs(jobs, JobFilter(), SHOWN, "wer")
    before = _hashes(jobs)
    with _seconds(took, f"the next one, {SHOWN} jobs"):
        list_jobs(jobs, JobFilter(), SHOWN, "wer")
    took["records that it reads"] = str(_hashes(jobs) - before)
    with _seconds(took, f"the last {SHOWN} jobs by name, from their place"):
        _last_page(jobs)
    tracemalloc.start()
    list_jobs(jobs, JobFilter(), SHOWN, "name")
    peak = tracemalloc.get_traced_memory()[1]
    took["memory of this process for a sorted list"] = f"{peak / 1e6:.1f} MB"
    tracemalloc.stop()
    reconciler = Reconciler(settings.model_copy(update={"lease_seconds": 0.1}), jobs.redis)
    time.sleep(1.1)  # until Redis counts as settled
    with _seconds(took, "a turn of the reconciler that reads all messages"):
        reconciler.turn()
    with _seconds(took, "one that need not"):
        reconciler.turn()
    took["memory of Redis, records, messages and sorted lists"] = _memory(jobs)
    for spec in specs[submitted:]:
        _keep_results(settings, f"hi-{spec.seed:08x}")
    took["with Celery's results of a month, all jobs ended in it"] = _memory(jobs)
    return took


def _hashes(jobs: Jobs) -> int:
    """How many hashes were read whole."""
    commands = cast("dict[str, dict[str, int]]", jobs.redis.info("commandstats"))
    return commands.get("cmdstat_hgetall", {"calls": 0})["calls"]


def _last_page(jobs: Jobs) -> None:
    """Read the sorted list as the REST API does, from the place of its 50th job from the end."""
    count = jobs.redis.zcard("lorajob:order:name")
    found = jobs.redis.zrange("lorajob:order:name", count - SHOWN - 1, count - SHOWN - 1)
    page_jobs(jobs, JobFilter(), 200, "name", cast("list[str]", found)[0])


def _memory(jobs: Jobs) -> str:
    memory = cast("dict[str, int]", jobs.redis.info("memory"))
    return f"{memory['used_memory'] / 1e6:.0f} MB"


def _keep_results(settings: Settings, job_id: str) -> None:
    """Store the results of a job's four tasks, as Celery's workers do."""
    app = _celery(redis_url(settings))
    for stage in STAGES:
        request = Context(
            task=f"lorajob.{stage}", args=[job_id], kwargs={}, retries=0,
            hostname="gpu-1a2b3c@machine-17", delivery_info={"routing_key": "gpu.3"},
            children=[app.AsyncResult(str(uuid4()))] if stage != STAGES[-1] else [],
        )  # fmt: skip
        result = stage_summary(stage, StageResult.model_validate(RESULTS[stage]))
        app.backend.store_result(str(uuid4()), result, "SUCCESS", request=request)


@cache
def _celery(url: str) -> Celery:
    app = Celery("lorajob", set_as_current=False)
    app.conf.update(configuration(url))
    return app


def ended(jobs: Jobs, spec: JobSpec) -> None:
    """A job that succeeded long ago. It has a record, but no files."""
    record = jobs.new_record(spec, f"hi-{spec.seed:08x}")
    now = time.time()
    stages = {
        name: record.stages[name].model_copy(
            update={
                "state": "succeeded", "attempts": 1, "attempt": 1, "started_at": now - 9,
                "finished_at": now, "worker": "gpu-1a2b3c@machine-17",
                "result": StageResult.model_validate(RESULTS[name]),
                "owner": "0" * 32, "progress": Progress(step=3000, total=3000, loss=0.2),
            }
        )
        for name in STAGES
    }  # fmt: skip
    done: JobRecord = record.model_copy(update={"state": "succeeded", "stages": stages})
    Path(done.folder).mkdir(parents=True, exist_ok=True)
    jobs.records.create(done)


@contextmanager
def _redis(home: Path) -> Iterator[Settings]:
    port = free_port()
    url = SecretStr(f"redis://:{PASSWORD}@127.0.0.1:{port}/0")
    settings = Settings(home=home, artifacts=home / "jobs", redis_url=url)
    kept = Kept(redis_service(settings, find_server(), port, PASSWORD))
    (home / "log").mkdir()
    kept.start()
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                connect(settings).ping()
                break
            except RedisError as error:
                if time.monotonic() > deadline:
                    raise ServiceError(f"Redis did not start: {error}") from error
                time.sleep(0.1)
        yield settings
    finally:
        if kept.identity is not None:
            end([kept.identity], 10)


def _url(settings: Settings) -> dict[str, str]:
    return {"LORAJOB_REDIS_URL": redis_url(settings)}


@contextmanager
def _seconds(took: dict[str, str], what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    took[what] = f"{time.monotonic() - started:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
