"""Simulate autoscaling: how long jobs wait, and how much of the workers' time is idle.

    python bench/autoscaling.py --seed 1

A thousand jobs of four stages come in two days, in batches and one by one. Up to 50 gpu workers
start and end as under `lorajob autoscale`, and sometimes fail. The script prints Markdown: waiting
times of all stages and of single jobs, compared with the optimum and with fleets of a fixed size;
then the waiting time of a single job behind a batch of a hundred. The rules are the service's own:
`decide`, the queues' names and priorities, kombu's round robin.
"""

import argparse
import heapq
import math
import random
import statistics
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from kombu.utils.scheduling import round_robin_cycle

from lorajob.job.jobdir import STAGES
from lorajob.worker.machine.autoscale import LOOK_SECONDS, decide
from lorajob.worker.queues import LANES, PRIORITIES, QUEUES, Priority, queue_name
from lorajob.worker.settings import Settings

HOUR, ARRIVAL_HOURS = 3600.0, 48
BATCHES = (100,) * 7 + (20,) * 10  # the other jobs come one by one, from USERS
JOBS, USERS, MOST_WORKERS, TRIALS = 1000, 20, 50, 20
CPU_WORKERS = 200  # enough that only the gpu queue matters
MEDIAN_SECONDS = {"preprocess": 180.0, "train": 1800.0, "evaluate": 420.0, "convert": 120.0}
SPREAD = 0.5  # sigma of the logarithm: one job in twenty takes more than twice the median
STARTUP_SECONDS = 120.0  # of a machine that boots; a process alone takes 5 s
FAILURE_HOURS = 24.0  # mean time between the failures of one worker
CHECKPOINT_SECONDS = 300.0
LEASE_SECONDS = Settings.model_fields["lease_seconds"].default
SCALE_DOWN_SECONDS = Settings.model_fields["scale_down_seconds"].default


@dataclass(eq=False)
class Job:
    """One job and its progress."""

    arrives: float
    share: str  # its batch or user
    seconds: tuple[float, ...]  # of each stage
    priority: Priority = "normal"
    stage: int = 0
    left: float = 0.0  # remaining seconds of the current stage
    since: float = 0.0  # when the stage was queued
    lane: int = 0
    waits: list[float] = field(default_factory=list)  # for gpu workers


@dataclass(eq=False)
class Worker:
    """One worker of a kind. `turn` numbers its idle and busy periods."""

    kind: str
    cycle: Any
    began: float
    job: Job | None = None
    since: float = 0.0
    turn: int = 0
    alive: bool = True


@dataclass(frozen=True)
class Policy:
    """Rules by which gpu workers start and end."""

    least: int
    most: int
    startup: float = STARTUP_SECONDS
    idle: float = SCALE_DOWN_SECONDS
    look: float = LOOK_SECONDS  # 0: at once
    failures: bool = True
    lanes: int = LANES


class Simulation:
    """Simulates jobs, queues and workers, event by event."""

    def __init__(self, jobs: list[Job], policy: Policy, seed: int) -> None:
        self.jobs, self.policy = jobs, policy
        self.now = self.busy = self.paid = self.last = 0.0
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._events_so_far = 0
        self._queues: dict[tuple[str, int], deque[Job]] = {}
        self._in_lane = [0] * policy.lanes  # unfinished jobs
        self._of_share: dict[str, set[Job]] = {}
        self._idle: dict[str, dict[Worker, None]] = {"cpu": {}, "gpu": {}}  # idle the longest first
        self._queued = {"cpu": 0, "gpu": 0}
        self._running = {"cpu": 0, "gpu": 0}
        self._gpu_workers: list[Worker] = []
        self._open = len(jobs)

    def run(self) -> "Simulation":
        for _ in range(CPU_WORKERS):
            self._serve(self._new_worker("cpu"))
        for job in self.jobs:
            self._at(job.arrives, self._submit, job)
        self._look()
        while self._events and self._open:
            self.now, _, event, args = heapq.heappop(self._events)
            event(*args)
        for number, worker in enumerate(self._gpu_workers):
            later = self.policy.idle if number >= self.policy.least else 0  # ends by itself
            self.paid += self.now - worker.began + later
        return self

    def _at(self, when: float, event: Callable[..., None], *args: Any) -> None:
        self._events_so_far += 1
        heapq.heappush(self._events, (when, self._events_so_far, event, args))

    def _submit(self, job: Job) -> None:
        mates = self._of_share.setdefault(job.share, set())
        new = self._in_lane.index(min(self._in_lane))
        job.lane = next((mate.lane for mate in mates), new)  # as a record's when it is made
        mates.add(job)
        self._in_lane[job.lane] += 1
        self._queue(job, job.seconds[0])

    def _queue(self, job: Job, seconds: float) -> None:
        job.left, job.since = seconds, self.now
        stage = STAGES[job.stage]
        key = queue_name(stage, job.lane), PRIORITIES[job.priority]
        self._queues.setdefault(key, deque()).append(job)
        kind = QUEUES[stage]
        self._queued[kind] += 1
        if self._idle[kind]:
            self._serve(next(iter(self._idle[kind])))
        elif self.policy.look == 0 and kind == "gpu":
            self._look()

    def _finish(self, worker: Worker, turn: int) -> None:
        if not worker.alive or worker.turn != turn or worker.job is None:
            return
        job = self._release(worker)
        job.stage += 1
        if job.stage < len(STAGES):
            self._queue(job, job.seconds[job.stage])
        else:
            self.last = self.now
            self._open -= 1
            self._in_lane[job.lane] -= 1
            self._of_share[job.share].remove(job)
        self._serve(worker)

    def _release(self, worker: Worker) -> Job:
        job, worker.job = cast(Job, worker.job), None
        self._running[worker.kind] -= 1
        if worker.kind == "gpu":
            self.busy += self.now - worker.since
        return job

    def _new_worker(self, kind: str) -> Worker:
        names = [f"{kind}.{lane}" for lane in range(self.policy.lanes)]
        self._random.shuffle(names)  # as Celery's set of queues is
        return Worker(kind, round_robin_cycle(names), self.now)

    def _serve(self, worker: Worker) -> None:
        """Take the next job, or wait for one."""
        if not worker.alive:
            return
        self._idle[worker.kind].pop(worker, None)
        worker.turn, worker.since = worker.turn + 1, self.now
        worker.job = job = self._take(worker)
        if job is None:
            self._idle[worker.kind][worker] = None
            if worker.kind == "gpu":
                self._at(self.now + self.policy.idle, self._leave, worker, worker.turn)
            return
        self._queued[worker.kind] -= 1
        self._running[worker.kind] += 1
        if worker.kind == "gpu":
            job.waits.append(self.now - job.since)
        self._at(self.now + job.left, self._finish, worker, worker.turn)

    def _take(self, worker: Worker) -> Job | None:
        """Take a job as kombu does: by priority, then round robin over the queues."""
        names = worker.cycle.consume(self.policy.lanes)
        for step in PRIORITIES.values():
            for name in names:
                if waiting := self._queues.get((name, step)):
                    worker.cycle.rotate(name)
                    return waiting.popleft()
        return None

    def _look(self) -> None:
        """Start workers as `lorajob autoscale` does. It never ends workers."""
        policy, have = self.policy, len(self._gpu_workers)
        load = self._queued["gpu"], self._running["gpu"]
        for _ in range(decide(*load, policy.least, policy.most) - have):
            worker = self._new_worker("gpu")
            self._gpu_workers.append(worker)
            if policy.failures:
                lives = self._random.expovariate(1 / (FAILURE_HOURS * HOUR))
                self._at(self.now + lives, self._fail, worker)
            self._at(self.now + policy.startup, self._serve, worker)
        if policy.look:
            self._at(self.now + policy.look, self._look)

    def _leave(self, worker: Worker, turn: int) -> None:
        lasting = len(self._gpu_workers) <= self.policy.least
        if worker.alive and worker.turn == turn and worker.job is None and not lasting:
            self._end(worker)

    def _fail(self, worker: Worker) -> None:
        """Let a worker fail. Its stage continues from its checkpoint when the lease has expired."""
        if not worker.alive:
            return
        if worker.job is not None:
            done = self.now - worker.since
            job = self._release(worker)
            kept = done // CHECKPOINT_SECONDS * CHECKPOINT_SECONDS
            left = job.left - kept if STAGES[job.stage] == "train" else job.left
            self._at(self.now + LEASE_SECONDS, self._queue, job, left)
        self._end(worker)

    def _end(self, worker: Worker) -> None:
        worker.alive = False
        self._idle["gpu"].pop(worker, None)
        self._gpu_workers.remove(worker)
        self.paid += self.now - worker.began


def arrivals(seed: int) -> list[Job]:
    """The jobs of two days."""
    rng = random.Random(seed)
    jobs = []
    for number, size in enumerate(BATCHES):
        when = rng.uniform(0, ARRIVAL_HOURS * HOUR)
        jobs += [Job(when, f"batch {number}", durations(rng)) for _ in range(size)]
    while len(jobs) < JOBS:
        user = f"user {rng.randrange(USERS)}"
        jobs.append(Job(rng.uniform(0, ARRIVAL_HOURS * HOUR), user, durations(rng)))
    return sorted(jobs, key=lambda job: job.arrives)


def durations(rng: random.Random) -> tuple[float, ...]:
    """Seconds of each stage of one job."""
    return tuple(rng.lognormvariate(math.log(MEDIAN_SECONDS[stage]), SPREAD) for stage in STAGES)


def single_behind_batch(seed: int, lanes: int = LANES, first: Priority = "normal") -> list[float]:
    """Seconds that each gpu stage of a single job waits for one of four workers behind a batch."""
    rng = random.Random(seed)
    batch = [Job(0.0, "batch", durations(rng)) for _ in range(100)]
    single = Job(2 * HOUR, "user", durations(rng), first)
    Simulation([*batch, single], Policy(4, 4, 0, failures=False, lanes=lanes), seed).run()
    return single.waits


def p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


POLICIES = {
    "optimum: a worker for each, at once": Policy(0, 10**6, 0, 0, 0, failures=False),
    "at most 50, at once, none fails": Policy(0, MOST_WORKERS, 0, 0, 0, failures=False),
    "`lorajob autoscale --min 0 --max 50`": Policy(0, MOST_WORKERS),
    "the same, `--idle 900`": Policy(0, MOST_WORKERS, idle=900.0),
    "the same, a process that starts in 5 s": Policy(0, MOST_WORKERS, startup=5.0),
    "50 workers, always": Policy(MOST_WORKERS, MOST_WORKERS),
    "20 workers, always": Policy(20, 20),
}
SINGLES: dict[str, tuple[int, Priority]] = {
    "lanes": (LANES, "normal"),
    "one lane": (1, "normal"),
    "one lane, `--priority high`": (1, "high"),
}


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args(args).seed
    head = "wait, mean (min) | p95 | single jobs, p95 | most | worker hours | idle | makespan (h)"
    print(f"| gpu workers | {head} |\n| --- |" + " ---: |" * 7)
    for name, policy in POLICIES.items():
        done = Simulation(arrivals(seed), policy, seed).run()
        waits = [wait / 60 for job in done.jobs for wait in job.waits]
        singles = [sum(job.waits) / 60 for job in done.jobs if job.share.startswith("user")]
        cells = f"{statistics.fmean(waits):.1f} | {p95(waits):.1f} | {p95(singles):.1f}"
        cells += f" | {max(singles):.1f} | {done.paid / HOUR:.0f}"
        idle = max(0.0, 100 * (1 - done.busy / done.paid))
        print(f"| {name} | {cells} | {idle:.1f} % | {done.last / HOUR:.1f} |")
    print("\n| a single job behind a batch of 100, 4 workers | wait, mean (min) | longest |")
    print("| --- | ---: | ---: |")
    for name, options in SINGLES.items():
        waits = [sum(single_behind_batch(seed + n, *options)) / 60 for n in range(TRIALS)]
        print(f"| {name} | {statistics.fmean(waits):.1f} | {max(waits):.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
