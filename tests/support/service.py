"""A real Redis and a real stack for tests, and jobs whose stages need no model.

The stages are the real `lorajob.stage`: one that is committed already returns at once, and one
whose manifest is a pipe (`Gate`) runs until the test lets it finish.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from lorajob.job.jobdir import MANIFEST, STAGES, JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.tasks.broker import send
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import connect
from lorajob.worker.machine.processes import end
from lorajob.worker.records.record import JobRecord, new_stages
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from lorajob.worker.stack.info import StackInfo
from lorajob.worker.stack.redis_server import find_server
from lorajob.worker.stack.services import Kept, redis_service
from lorajob.worker.stack.stack import Stack
from tests.support.ports import free_port
from tests.support.procs import command_line, process_ids

LONG_SECONDS = 240.0  # for any condition, also on a machine that is slow and busy
PASSWORD = "redis-secret-of-the-tests"
FLOWER_PASSWORD = "flower-secret-of-the-tests"
SCORES = {"wer": 50.0, "cer": 20.0, "raw_wer": 55.0, "raw_cer": 25.0, "clips": 3}
RESULTS = {
    "preprocess": StageResult(train_clips=9, dropped={}),
    "train": StageResult(steps=4, loss=1.5),
    "evaluate": StageResult(base=SCORES | {"wer": 200.0}, tuned=SCORES),
    "convert": StageResult(converted=SCORES | {"wer": 51.0}, warnings=[]),
}


def wait_for(condition: Callable[[], object], seconds: float = LONG_SECONDS) -> None:
    """Return when `condition` holds; fail after `seconds`, at least LONG_SECONDS.

    The limit only ends a test that hangs: a slow or busy machine must not reach it. Questions
    of up to 0.1 s of CPU time take at most a tenth of a core, for what the test waits for needs it.
    A long wait asks less often, and ends at most 2 % later for that.
    """
    start = time.monotonic()
    deadline = start + max(seconds, LONG_SECONDS)
    while True:
        began = time.thread_time()
        if condition():
            return
        now = time.monotonic()
        assert now < deadline, "the condition did not come true in time"
        pause = max(0.05, 9 * (time.thread_time() - began), (now - start) / 50)
        time.sleep(min(pause, 1.0))


def settings_for(home: Path, url: str | None) -> Settings:
    """Settings of a service in `home`, whatever the environment says."""
    return Settings(
        home=home,
        artifacts=home / "jobs",
        redis_url=SecretStr(url) if url else None,
        flower_password=SecretStr(FLOWER_PASSWORD),
        grace_seconds=2,
    )


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A Redis with a password, without workers."""
    with own_redis(tmp_path_factory.mktemp("redis-home")) as settings:
        yield settings


@contextmanager
def own_redis(home: Path) -> Iterator[Settings]:
    """A Redis with a password, whose data are in `home`."""
    port = free_port()
    settings = settings_for(home, f"redis://:{PASSWORD}@127.0.0.1:{port}/0")
    kept = Kept(redis_service(settings, find_server(), port, PASSWORD))
    kept.start()
    try:
        wait_for(lambda: _answers(settings) or _ended(kept))
        yield settings
    finally:
        assert kept.identity is not None
        end([kept.identity], 10)
        wait_for(lambda: kept.ended)


@pytest.fixture
def redis(redis_server: Settings) -> Iterator[Redis]:
    """A client of that Redis, empty before and after."""
    with connect(redis_server) as client:
        client.flushall()
        yield client
        client.flushall()


def _answers(settings: Settings) -> bool:
    with connect(settings) as redis:
        try:
            return bool(redis.ping())
        except RedisError:  # not there yet, or still loading
            return False


def _ended(redis: Kept) -> bool:
    """False. Fails the test if Redis has ended, so that it is not waited for."""
    log = redis.service.log
    assert not redis.ended, f"Redis has ended: {log.read_text('utf-8', errors='replace')[-1500:]}"
    return False


@dataclass(frozen=True)
class Service:
    """A running stack: Redis, one worker a queue, Flower."""

    settings: Settings
    info: StackInfo
    redis: Redis
    records: Records
    jobs: Jobs

    def new_job(self, job_id: str, committed: tuple[str, ...] = STAGES) -> JobRecord:
        """A queued job whose `committed` stages have files already; nothing is sent."""
        return new_job(self.settings, self.records, job_id, committed)

    def send(self, record: JobRecord) -> None:
        send(record, self.settings)

    def wait_until(self, job_id: str, state: str) -> JobRecord:
        """Wait for a state of a job."""
        wait_for(lambda: self.records.load(job_id).state == state)
        return self.records.load(job_id)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The stack, as `lorajob up --detach` starts it; down at the end."""
    home = tmp_path_factory.mktemp("service-home")
    # A fault of the machine, such as a base model without files, fails a job at once.
    stack = Stack(settings_for(home, None).model_copy(update={"max_faults": 1}))
    stack.up(detach=True, web=False)
    try:
        info = stack.info()
        assert info is not None
        settings = settings_for(home, info.redis_url)
        with connect(settings) as redis:
            yield Service(settings, info, redis, Records(redis), Jobs(settings))
    finally:
        assert stack.down()


def new_job(
    settings: Settings, records: Records, job_id: str, committed: tuple[str, ...]
) -> JobRecord:
    job = JobDir(settings.jobs / job_id)
    write_json(job.spec_path, JobSpec(language="hi", corpus="/nowhere").model_dump(mode="json"))
    for stage in committed:
        job.commit(stage, job.new_attempt(stage, 1), RESULTS[stage])
    record = JobRecord(
        id=job_id,
        language="hi",
        created_at=time.time(),
        corpus="/nowhere",
        base_model="openai/whisper-small",
        folder=str(job.root),
        stages=new_stages(),
    )
    records.create(record)
    return record


class Gate:
    """A stage that runs until `open`: its manifest is a pipe that the stage reads."""

    def __init__(self, record: JobRecord, stage: str) -> None:
        self._stage = stage
        self._folder = JobDir(Path(record.folder)).stage_dir(stage)
        self._folder.mkdir()
        os.mkfifo(self._folder / MANIFEST)
        self._pipe = os.open(self._folder / MANIFEST, os.O_RDWR)

    def open(self) -> None:
        """Let the stage finish, with the result of RESULTS."""
        manifest = {"stage": self._stage, "files": {}, "result": RESULTS[self._stage].as_json()}
        write_json(self._folder / MANIFEST, manifest)
        os.write(self._pipe, json.dumps(manifest).encode())
        self.close()

    def close(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def command_lines() -> dict[int, str]:
    """The arguments of every process."""
    return {pid: command_line(pid) for pid in process_ids()}


@pytest.fixture
def jobs(
    redis: Redis, redis_server: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Jobs:
    """A service whose jobs are queued in their records, but sent to no worker."""
    found = Jobs(redis_server.model_copy(update={"artifacts": tmp_path / "jobs"}))
    monkeypatch.setattr(found, "_send", lambda record: None)
    return found
