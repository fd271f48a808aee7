"""Jobs under a killer: `python -m tests.support.chaos --kills 30 --seed 0` prints what came of it.

Six jobs run on three gpu and two cpu workers while a random worker, stage or the Redis gets SIGKILL
every few seconds; what was killed is started again, as a process manager would. Some workers start
again on a broken machine: its mount is missing, its disk is full, or its card raises an error. The
next fault comes after a stage has failed there, and repairs it. Afterwards every job must have
succeeded, each stage committed once, each adapter be the bytes of an undisturbed run, and no step
before the last checkpoint have been done twice.
"""

import argparse
import os
import platform
import random
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from lorajob.job.jobdir import STAGES, JobDir
from lorajob.whisper.base_model import local_model
from lorajob.worker.queues import QUEUES
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings
from tests.support.fleet import (
    Fleet,
    Worker,
    adapter,
    end_tree,
    fleet_settings,
    stage_processes,
    undisturbed,
)
from tests.support.ports import free_port
from tests.support.procs import running
from tests.support.service import wait_for
from tests.support.tiny import make_tiny_whisper

SAVE_STEPS = 10
REDIS_AWAY_SECONDS = 1.0
STANDSTILL_SECONDS = 1800.0  # without a change in any job; a slow machine decodes for minutes
MOST_JOBS = 100
FAULTS = {"mount gone": "mount", "disk full": "disk", "card raises": "card"}
VICTIMS = ("worker tree", "worker's parent", "stage", "stage", "redis", *FAULTS)
SICK = Path(__file__).parent / "sick"
# The kinds of losses of these faults in the records
KINDS = ("files", "disk", "card")
GPU_STAGES = tuple(stage for stage in STAGES if QUEUES[stage] == "gpu")
RESULTS = Path(__file__).parents[2] / "bench" / "RESULTS.md"


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    kills: int = 30
    epochs: int = 150
    jobs: int = 6
    gpu_workers: int = 3
    cpu_workers: int = 2
    seeds: int = 6  # different jobs; each costs one undisturbed run
    real: tuple[str, ...] = ("train", "evaluate", "convert")  # stages; the others take no time
    between: tuple[float, float] = (4.0, 9.0)  # seconds between two kills


SHORT = Size(
    kills=len(VICTIMS),
    epochs=10,
    jobs=3,
    gpu_workers=2,
    cpu_workers=1,
    seeds=1,
    real=("train",),
    between=(0.5, 2.0),
)


@dataclass(frozen=True)
class Verdict:
    """What became of one job."""

    job: str
    state: str
    attempts: int
    commits: list[str]
    same_adapter: bool
    most_repeated: int
    unsaved_repeated: bool
    faults: tuple[str, ...]  # the kinds of its losses, each as often as it was

    @property
    def good(self) -> bool:
        return (
            self.state == "succeeded"
            and sorted(self.commits) == sorted(STAGES)
            and self.same_adapter
            and self.most_repeated <= SAVE_STEPS
            and not self.unsaved_repeated
        )


class Chaos:
    """One run: `kill` as often as wanted, then `finish`."""

    def __init__(self, fleet: Fleet, seed: int, size: Size) -> None:
        self.fleet = fleet
        self.size = size
        self.random = random.Random(seed)
        self._sick: Path | None = None  # the file that repairs the broken machine
        self.killed: list[str] = []
        self._deck: list[str] = []  # the victims to come, so that none is forgotten by chance
        self.left: list[int] = []  # whatever was alive below a killed process
        self.sets = [
            (f"seed={number}", f"train.epochs={size.epochs}") for number in range(size.seeds)
        ]
        home = fleet.home / "undisturbed"
        with ThreadPoolExecutor(2) as pool:  # each is a process of one thread
            runs = [
                pool.submit(undisturbed, home / str(number), fleet.base, *one)
                for number, one in enumerate(self.sets)
            ]
            self._undisturbed = [run.result() for run in runs]
        self.jobs: list[JobRecord] = []
        fleet.staff(cpu=size.cpu_workers, gpu=size.gpu_workers)
        for _ in range(size.jobs):
            self._submit()

    def _submit(self) -> None:
        number = len(self.jobs)
        assert number < MOST_JOBS, "a fault met no stage of so many jobs"
        one = self.sets[number % len(self.sets)]
        job = self.fleet.new_job(f"hi-c{number:04d}0", *one, real=self.size.real)
        self.fleet.send(job)
        self.jobs.append(job)

    @property
    def expected(self) -> list[bytes]:
        """The undisturbed adapter of each job."""
        return [self._undisturbed[n % len(self.sets)] for n in range(len(self.jobs))]

    def records(self) -> list[JobRecord]:
        found = self.fleet.records.load_many([job.id for job in self.jobs])
        assert len(found) == len(self.jobs), "a record is lost or damaged"
        return found

    def over(self) -> bool:
        return all(record.over for record in self.records())

    @property
    def faulty(self) -> tuple[str, ...]:
        """The stages that fail on a broken gpu worker: the real ones of its queue."""
        return tuple(stage for stage in GPU_STAGES if stage in self.size.real)

    def work_left(self) -> int:
        """The number of jobs that have work left which a broken gpu worker can fail."""
        last = self.faulty[-1]
        return sum(
            not record.over and record.stages[last].state != "succeeded"
            for record in self.records()
        )

    def keep_busy(self) -> None:
        """Submit further jobs if too few are left for the next fault to meet."""
        for _ in range(self.work_left(), min(self.size.jobs, self.size.gpu_workers + 1)):
            self._submit()

    def wait_in_progress(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds, however long that takes while the jobs make progress."""
        before: list[tuple[object, ...]] = []
        deadline = 0.0
        while not condition():
            now = standing(self.records())
            if now != before:
                before, deadline = now, time.monotonic() + STANDSTILL_SECONDS
            assert time.monotonic() < deadline, "the jobs make no progress"
            time.sleep(0.2)

    def repair(self) -> None:
        """Repair the machine that is broken, if any."""
        if self._sick is not None:
            self._sick.touch()
            self._sick = None

    def break_machine(self, fault: str) -> None:
        """Start a gpu worker again on a broken machine, and wait until an attempt fails there."""
        worker = self.random.choice(self.fleet.alive("gpu"))
        self._kill_tree(worker)
        self._sick = self.fleet.home / f"repaired-{len(self.killed)}"
        broken = {
            "LORAJOB_TEST_FAULT": fault,
            "LORAJOB_TEST_REPAIRED": str(self._sick),
            "LORAJOB_TEST_STAGES": " ".join(self.faulty),
            "PYTHONPATH": str(SICK),
        }
        name = self.fleet.start_worker("gpu", wait=False, **broken).name

        def met() -> bool:
            # The healthy workers may finish all work before the broken one takes any.
            if not self.work_left():
                self.keep_busy()
            ended = [entry for record in self.records() for entry in record.ended]
            return any(it.kind in KINDS and it.worker.startswith(f"{name}@") for it in ended)

        self.wait_in_progress(met)

    def _kill_tree(self, worker: Worker) -> None:
        tree = worker.tree()
        self.left += tree
        worker.signal(signal.SIGKILL, tree)
        worker.process.wait()

    def kill(self) -> None:
        """SIGKILL one victim and start it again."""
        time.sleep(self.random.uniform(*self.size.between))
        self.repair()
        self.keep_busy()
        if not self._deck:
            self._deck = self.random.sample(VICTIMS, len(VICTIMS))
        victim = self._deck.pop()
        stages = [pid for job in self.jobs for pid in stage_processes(job)]
        if victim in FAULTS:
            self.break_machine(FAULTS[victim])
        elif victim == "redis":
            self.fleet.kill_redis()
            time.sleep(REDIS_AWAY_SECONDS)
            self.fleet.start_redis()
        elif victim == "stage" and stages:
            self.fleet.workers[0].signal(signal.SIGKILL, [self.random.choice(stages)])
        else:
            victim = "worker tree" if victim == "stage" else victim
            worker = self.random.choice(self.fleet.alive("cpu") + self.fleet.alive("gpu"))
            tree = worker.tree()
            self.left += tree
            worker.signal(signal.SIGKILL, tree if victim == "worker tree" else [worker.pid])
            worker.process.wait()
            self.fleet.start_worker(worker.queue, wait=False)
        self.killed.append(victim)
        print(f"killed {len(self.killed)}: {victim}", file=sys.stderr, flush=True)

    def finish(self) -> list[Verdict]:
        """Wait for all jobs, end the workers as `lorajob down` does, and judge."""
        self.repair()
        self.wait_in_progress(self.over)
        wait_for(self.fleet.drained, 120)
        for worker in self.fleet.workers:
            worker.signal(signal.SIGTERM)
        wait_for(lambda: not self.fleet.alive("cpu") and not self.fleet.alive("gpu"), 60)
        wait_for(lambda: not [pid for pid in self.left if running(pid)])
        wait_for(lambda: not [pid for job in self.jobs for pid in stage_processes(job)])
        return [
            verdict(self.fleet.load(job), expected)
            for job, expected in zip(self.jobs, self.expected, strict=True)
        ]


def standing(records: list[JobRecord]) -> list[tuple[object, ...]]:
    """What changes if any of the jobs makes progress."""
    return [
        (record.id, name, stage.state, stage.attempts, stage.progress)
        for record in records
        for name, stage in record.stages.items()
    ]


def verdict(record: JobRecord, expected: bytes) -> Verdict:
    most, unsaved = repeated_steps(record)
    return Verdict(
        job=record.id,
        state=record.state,
        attempts=sum(stage.attempts for stage in record.stages.values()),
        commits=[attempt.stage for attempt in record.ended if attempt.why == "succeeded"],
        same_adapter=record.state == "succeeded" and adapter(record.folder) == expected,
        most_repeated=most,
        unsaved_repeated=unsaved,
        faults=tuple(entry.kind for entry in record.ended if entry.kind),
    )


def repeated_steps(record: JobRecord) -> tuple[int, bool]:
    """The most steps that an attempt did again, as reported, and whether any went on from before
    a checkpoint that had been written.
    """
    reached = {it.number: it.step or 0 for it in record.ended if it.stage == "train"}
    text = JobDir(Path(record.folder)).log_path("train").read_text("utf-8", errors="replace")
    most = high = saved = 0
    unsaved = False
    for part in text.split(" supervisor: attempt ")[1:]:
        begun = re.match(r"(\d+) begins", part)
        if begun is None:
            continue
        resumed = re.search(r"resumed from step (\d+)", part)
        steps = reached.get(int(begun[1]), 0)
        if steps or resumed:  # else it ended before its first step
            start = int(resumed[1]) if resumed else 0
            most = max(most, high - start)
            unsaved = unsaved or start < saved
        high = max(high, steps)
        saved = max([saved, *map(int, re.findall(r": checkpoint .*step-(\d+)", part))])
    return most, unsaved


def table(verdicts: list[Verdict], chaos: Chaos, seconds: float) -> str:
    """The result in Markdown."""
    kinds = sorted({kind for it in verdicts for kind in it.faults})
    kills = {victim: chaos.killed.count(victim) for victim in dict.fromkeys(VICTIMS)}
    lines = [
        f"{len(chaos.killed)} kills in {seconds:.0f} s: "
        + ", ".join(f"{count} {victim}" for victim, count in kills.items()),
        "",
        "Attempts lost: "
        + ", ".join(f"{sum(it.faults.count(kind) for it in verdicts)} {kind}" for kind in kinds),
        "",
        "| job | state | attempts | commits a stage | adapter | most steps repeated |",
        "| --- | --- | ---: | --- | --- | ---: |",
    ]
    for it in verdicts:
        commits = "/".join(str(it.commits.count(stage)) for stage in STAGES)
        same = "as undisturbed" if it.same_adapter else "DIFFERS"
        lines.append(
            f"| {it.job} | {it.state} | {it.attempts} | {commits} | {same} | {it.most_repeated} "
            f"(checkpoints every {SAVE_STEPS}) |"
        )
    lines += ["", "Nothing was left running, and the queues were empty."]
    return "\n".join(lines) + "\n"


def patient(settings: Settings) -> Settings:
    """The settings, with which no number of faults fails a job."""
    return settings.model_copy(update={"max_losses": 1000, "max_faults": 1000, "max_crashes": 1000})


def run(fleet: Fleet, seed: int, size: Size) -> tuple[list[Verdict], str]:
    """Kill as often as the size says, and judge."""
    started = time.monotonic()
    chaos = Chaos(fleet, seed, size)
    while len(chaos.killed) < size.kills:
        chaos.kill()
    verdicts = chaos.finish()
    return verdicts, table(verdicts, chaos, time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=150, help="length of each training")
    parser.add_argument("--seeds", type=int, default=6, help="different jobs")
    parser.add_argument("--results", type=Path, help="file to append the table to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorajob-chaos-") as name:
        home = Path(name)
        base = make_tiny_whisper(local_model("demo/whisper-base"), home / "tiny")
        port = free_port()
        fleet = Fleet(home, patient(fleet_settings(home, port)), port, base)
        try:
            fleet.start_redis()
            size = replace(Size(), kills=args.kills, epochs=args.epochs, seeds=args.seeds)
            verdicts, text = run(fleet, args.seed, size)
        finally:
            for worker in fleet.workers:
                end_tree(worker)
            fleet.close()
    print(text)
    if args.results:
        command = ["python", "-m", "tests.support.chaos", *sys.argv[1:]]
        title = f"\n## Chaos, {time.strftime('%Y-%m-%d')}\n\n"
        machine = f"- Machine: {platform.machine()}, {os.cpu_count()} cores, "
        machine += f"Python {platform.python_version()}\n"
        with args.results.open("a", encoding="utf-8") as file:
            file.write(f"{title}{machine}- Command: `{shlex.join(command)}`\n\n{text}")
    return 0 if all(it.good for it in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
