"""A Redis and workers to be killed, with jobs whose training is real and whose rest is made up."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from lorajob.job.jobdir import STAGES, JobDir
from lorajob.tasks import broker
from lorajob.tasks.broker import send
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import connect, redis_url
from lorajob.worker.heartbeats import living
from lorajob.worker.machine.launch import service_environment, worker_command
from lorajob.worker.records.record import JobRecord, new_stages
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from lorajob.worker.stack.redis_server import find_server, redis_configuration
from tests.support.ports import free_port
from tests.support.procs import descendants, running
from tests.support.service import PASSWORD, RESULTS, command_lines, wait_for
from tests.support.tiny import make_job

LEASE_SECONDS = 3.0
# With this folder in PYTHONPATH, a training waits at the step that `Fleet.train_to` names.
HELD = Path(__file__).parent / "held"
TRAINING = (  # 32 steps
    "train.batch_clips=2",
    "train.rank=4",
    "train.threads=1",
    "train.save_steps=10",
    "train.epochs=5",
)
SAVE_STEPS = 10


@dataclass
class Worker:
    """A worker's main process; its children are found through /proc."""

    queue: str
    name: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def tree(self) -> list[int]:
        """This process and all that came of it, children last."""
        return descendants(self.pid)

    def signal(self, number: signal.Signals, pids: list[int] | None = None) -> None:
        """Send a signal to the worker, or to `pids`; those that are gone are no matter."""
        for pid in [self.pid] if pids is None else pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


@dataclass
class Fleet:
    """Everything of one service; `close` leaves nothing running."""

    home: Path
    settings: Settings
    port: int
    base: Path
    address: str = "127.0.0.1"  # where Redis listens
    prefix: tuple[str, ...] = ()  # of the workers' commands
    holds: Path | None = None  # of all machines that run the same jobs; None: a folder in `home`
    workers: list[Worker] = field(default_factory=list)
    server: subprocess.Popen[bytes] | None = None
    _clients: dict[str, tuple[Redis, Records]] = field(default_factory=dict)

    @property
    def redis(self) -> Redis:
        """One client, kept: tests ask often, and a new connection takes most of a question."""
        return self._connected()[0]

    @property
    def records(self) -> Records:
        return self._connected()[1]

    def _connected(self) -> tuple[Redis, Records]:
        url = redis_url(self.settings)
        if url not in self._clients:
            client = connect(self.settings, patient=True)
            self._clients[url] = client, Records(client)
        return self._clients[url]

    def environment(self) -> dict[str, str]:
        """For `lorajob` commands of a user of this service."""
        return service_environment(self.settings)

    @property
    def jobs(self) -> Jobs:
        return Jobs(self.settings)

    def start_redis(self, wipe: bool = False) -> None:
        """Start Redis on its port and wait for it; what it held before is there unless `wipe`."""
        folder = self.home / "redis"
        folder.mkdir(exist_ok=True)
        if wipe:
            for path in folder.iterdir():
                path.unlink()
        with (self.home / "redis.log").open("ab") as log:
            self.server = subprocess.Popen(
                [find_server(), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                restore_signals=False,  # it ignores SIGXFSZ, as this process does
                start_new_session=True,
            )
        assert self.server.stdin is not None
        words = redis_configuration(folder, self.port, PASSWORD) + f"bind {self.address}\n"
        self.server.stdin.write(words.encode())
        self.server.stdin.close()
        wait_for(lambda: self._answers() or self._server_runs())

    def _server_runs(self) -> bool:
        """False. Fails the test if Redis has ended, so that it is not waited for."""
        assert self.server is not None
        assert self.server.poll() is None, last_words(self.home / "redis.log")
        return False

    def kill_redis(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def _answers(self) -> bool:
        try:
            with connect(self.settings) as redis:
                return bool(redis.ping())
        except RedisError:  # not there yet, or still loading
            return False

    def start_worker(
        self,
        queue: str,
        app: str = "lorajob.worker.app",
        wait: bool = True,
        python: str = sys.executable,
        **environment: str,
    ) -> Worker:
        """Start a worker, and `wait` until it serves; its log is HOME/NAME.log."""
        name = f"{queue}-{len(self.workers)}"
        command = [python, *worker_command(queue, name=name)[1:]]
        command[command.index("lorajob.worker.app")] = app
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.prefix, *command],
                env=service_environment(self.settings) | self._hold_environment() | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        worker = Worker(queue, name, process)
        self.workers.append(worker)
        if wait:
            wait_for(lambda: self._serves(worker), 60)
        return worker

    def _serves(self, worker: Worker) -> bool:
        """Whether a worker takes work. Fails the test if it has ended instead."""
        ended = worker.process.poll() is not None
        if any(name.startswith(f"{worker.name}@") for name in living(self.redis, worker.queue)):
            return True
        assert not ended, last_words(self.home / f"{worker.name}.log")
        return False

    def _holds(self) -> Path:
        folder = self.holds or self.home / "holds"
        folder.mkdir(exist_ok=True)
        return folder

    def _hold_environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(HELD), "LORAJOB_TEST_HELD": str(self._holds())}

    def hold(self, record: JobRecord, step: int) -> None:
        """Have the training of a job wait once it has done `step`, until `let_go`."""
        (self._holds() / f"{record.id}.{step}").touch()

    def let_go(self, record: JobRecord) -> None:
        for path in self._holds().glob(f"{record.id}.*"):
            path.unlink()

    def alive(self, queue: str) -> list[Worker]:
        return [w for w in self.workers if w.queue == queue and w.process.poll() is None]

    def staff(self, cpu: int, gpu: int) -> None:
        """Have so many workers of each queue, none of them with a past."""
        for queue, count in (("cpu", cpu), ("gpu", gpu)):
            for worker in self.alive(queue)[count:]:
                end_tree(worker)
            while len(self.alive(queue)) < count:
                self.start_worker(queue)

    def new_job(
        self, job_id: str, *sets: str, real: tuple[str, ...] = ("train",), version: int = 0
    ) -> JobRecord:
        """A queued job, not sent: preprocess is finished, of the other stages all but `real`."""
        job = make_job(self.settings.jobs / job_id, self.base, *TRAINING, *sets)
        for stage in STAGES[1:]:
            if stage not in real:
                job.commit(stage, job.new_attempt(stage, 1), RESULTS[stage])
        record = JobRecord(
            id=job_id,
            language="hi",
            created_at=time.time(),
            corpus="unused",
            base_model=str(self.base),
            folder=str(job.root),
            version=version,
            stages=new_stages(),
        )
        self.records.create(record)
        return record

    def copy_job(self, record: JobRecord, job_id: str) -> JobRecord:
        """The same job, as far as it is, under another id."""
        folder = self.settings.jobs / job_id
        shutil.copytree(record.folder, folder)
        changes = {"id": job_id, "folder": str(folder)}
        copied = self.load(record).model_copy(update=changes)
        self.records.create(copied)
        return copied

    def send(self, record: JobRecord) -> None:
        send(record, self.settings)

    def submit(self, job_id: str, *sets: str) -> JobRecord:
        """A new job, sent."""
        record = self.new_job(job_id, *sets)
        self.send(record)
        return record

    def load(self, record: JobRecord) -> JobRecord:
        return self.records.load(record.id)

    def step(self, record: JobRecord, stage: str = "train") -> int:
        """The last step that a stage reported."""
        progress = self.load(record).stages[stage].progress
        return (progress.step or 0) if progress else 0

    def train_to(self, record: JobRecord, step: int) -> None:
        """Wait until training has reached a step, where it waits until `let_go`.

        A training that is not held on its machine must be long enough.
        """
        self.hold(record, step)
        wait_for(lambda: self.step(record) >= step or self.load(record).over, 90)
        assert self.load(record).stages["train"].state == "running", self.load(record)

    def wait_until(self, record: JobRecord, state: str, seconds: float = 90) -> JobRecord:
        """Wait for a state of a job; its training goes on, unless it is being cancelled."""
        if state != "cancelled":
            self.let_go(record)
        wait_for(lambda: self._over(record, state), seconds)
        done = self.load(record)
        assert done.state == state, done
        return done

    def _over(self, record: JobRecord, state: str) -> bool:
        """Whether a job is over or in a state. Fails the test if all workers have ended before."""
        ended = [worker.process.poll() is not None for worker in self.workers]
        now = self.load(record)
        if now.state == state or now.over:
            return True
        if ended and all(ended):
            logs = [last_words(self.home / f"{worker.name}.log") for worker in self.workers[-3:]]
            raise AssertionError("\n".join(["no worker is left", *logs]))
        return False

    def runner(self, record: JobRecord) -> Worker:
        """The worker that runs a job."""
        names = [
            stage.worker or ""
            for stage in self.load(record).stages.values()
            if stage.state == "running"
        ]
        return next(w for w in self.workers if names and names[0].startswith(f"{w.name}@"))

    def drained(self) -> bool:
        """No message waits, none is in a worker's hands."""
        return not broker.waiting(self.redis) and not self.redis.hlen("unacked")

    def close(self) -> None:
        for worker in self.workers:
            end_tree(worker)
        for client, _ in self._clients.values():
            client.close()
        if self.server is not None:
            self.kill_redis()


def fleet_settings(
    home: Path, port: int, max_losses: int = 3, address: str = "127.0.0.1"
) -> Settings:
    """A service in `home`, with leases of seconds."""
    return Settings(
        home=home,
        artifacts=home / "jobs",
        redis_url=SecretStr(f"redis://:{PASSWORD}@{address}:{port}/0"),
        lease_seconds=LEASE_SECONDS,
        grace_seconds=20,
        max_losses=max_losses,
    )


def last_words(log: Path) -> str:
    """The end of a process's log, for a test that fails because the process has ended."""
    text = log.read_text("utf-8", errors="replace") if log.exists() else "it has no log"
    return f"{log.name}: {text[-1500:]}"


def end_tree(worker: Worker) -> None:
    """SIGKILL a worker and all that came of it, stopped or not."""
    tree = worker.tree()
    worker.signal(signal.SIGKILL, tree)
    worker.process.wait(timeout=240)
    wait_for(lambda: not any(running(pid) for pid in tree))


def trainer(record: JobRecord, stage: str = "train") -> int | None:
    """The pid of a job's stage."""
    found = stage_processes(record, stage)
    return found[0] if found else None


def stage_processes(record: JobRecord, stage: str = "") -> list[int]:
    """The processes that work on a job, main process first."""
    mark = f"lorajob.stage {stage}"
    return sorted(
        pid for pid, line in command_lines().items() if mark in line and f"{record.folder} " in line
    )


def log_lines(record: JobRecord, words: str, stage: str = "train") -> list[str]:
    """The lines of a stage's log that hold `words`."""
    path = JobDir(Path(record.folder)).log_path(stage)
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
    return [line for line in lines if words in line]


def adapter(folder: Path | str) -> bytes:
    return (Path(folder) / "train" / "adapter" / "adapter_model.safetensors").read_bytes()


def undisturbed(root: Path, base: Path, *sets: str) -> bytes:
    """The adapter of the same training, run by hand without any service."""
    job = make_job(root, base, *TRAINING, *sets)
    command = [sys.executable, "-m", "lorajob.stage", "train", str(job.root)]
    subprocess.run(command, check=True, capture_output=True)
    return adapter(root)


@pytest.fixture(scope="module")
def fleet(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A Redis without workers; each test says what staff it needs."""
    home, port = tmp_path_factory.mktemp("fleet"), free_port()
    made = Fleet(home, fleet_settings(home, port), port, tiny_whisper)
    try:
        made.start_redis()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def expected(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter that every training under TRAINING must end with."""
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), tiny_whisper)


def commits(record: JobRecord) -> list[str]:
    """The stages that were committed, each as often as it was."""
    return [attempt.stage for attempt in record.ended if attempt.why == "succeeded"]


def resumed_at(record: JobRecord) -> list[int]:
    """The steps that attempts went on from."""
    return [int(line.rpartition(" ")[2]) for line in log_lines(record, "resumed from step")]


def checkpoints(record: JobRecord) -> list[Path]:
    return list(JobDir(Path(record.folder)).checkpoints.glob("[0-9]*/step-*"))
