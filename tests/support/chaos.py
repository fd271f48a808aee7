"""Jobs under a killer: `python -m tests.support.chaos --kills 30 --seed 0` prints what came of it.

Four jobs run on two gpu and two cpu workers while a random worker, stage or the Redis gets SIGKILL
every few seconds; what was killed is started again, as a process manager would. Afterwards every
job must have succeeded, each stage committed once, each adapter be the bytes of an undisturbed
run, and no step before the last checkpoint have been done twice.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lorajob.job.jobdir import STAGES, JobDir
from lorajob.whisper.base_model import local_model
from lorajob.worker.records.record import JobRecord
from lorajob.worker.stack.redis_server import free_port
from tests.support.fleet import (
    Fleet,
    adapter,
    end_tree,
    fleet_settings,
    stage_processes,
    undisturbed,
)
from tests.support.procs import running
from tests.support.service import wait_for
from tests.support.tiny import make_tiny_whisper

SAVE_STEPS = 10
BETWEEN_KILLS = (4.0, 9.0)  # seconds
REDIS_AWAY_SECONDS = 1.0
END_SECONDS = 600.0
VICTIMS = ("worker tree", "worker's parent", "stage", "stage", "redis")
RESULTS = Path(__file__).parents[2] / "bench" / "RESULTS.md"


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

    def __init__(self, fleet: Fleet, seed: int, epochs: int) -> None:
        self.fleet = fleet
        self.random = random.Random(seed)
        self.killed: list[str] = []
        self._deck: list[str] = []  # the victims to come, so that none is forgotten by chance
        self.left: list[int] = []  # whatever was alive below a killed process
        sets = [(f"seed={number}", f"train.epochs={epochs}") for number in range(4)]
        home = fleet.home / "undisturbed"
        with ThreadPoolExecutor(2) as pool:  # each is a process of one thread
            runs = [
                pool.submit(undisturbed, home / str(number), fleet.base, *one)
                for number, one in enumerate(sets)
            ]
            self.expected = [run.result() for run in runs]
        fleet.staff(cpu=2, gpu=2)
        real = ("train", "evaluate", "convert")
        self.jobs = [
            fleet.new_job(f"hi-c0000{number}", *one, real=real) for number, one in enumerate(sets)
        ]
        for job in self.jobs:
            fleet.send(job)

    def over(self) -> bool:
        return all(self.fleet.load(job).over for job in self.jobs)

    def kill(self) -> None:
        """SIGKILL one victim and start it again."""
        time.sleep(self.random.uniform(*BETWEEN_KILLS))
        if not self._deck:
            self._deck = self.random.sample(VICTIMS, len(VICTIMS))
        victim = self._deck.pop()
        stages = [pid for job in self.jobs for pid in stage_processes(job)]
        if victim == "redis":
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
        wait_for(self.over, END_SECONDS)
        wait_for(self.fleet.drained, 120)
        for worker in self.fleet.workers:
            worker.signal(signal.SIGTERM)
        wait_for(lambda: not self.fleet.alive("cpu") and not self.fleet.alive("gpu"), 60)
        assert not [pid for pid in self.left if running(pid)]
        assert not [pid for job in self.jobs for pid in stage_processes(job)]
        return [
            verdict(self.fleet.load(job), expected)
            for job, expected in zip(self.jobs, self.expected, strict=True)
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
    kills = {victim: chaos.killed.count(victim) for victim in dict.fromkeys(VICTIMS)}
    lines = [
        f"{len(chaos.killed)} kills in {seconds:.0f} s: "
        + ", ".join(f"{count} {victim}" for victim, count in kills.items()),
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


def run(fleet: Fleet, seed: int, kills: int, epochs: int) -> tuple[list[Verdict], str]:
    """Kill so often, or until all jobs are over, and judge."""
    started = time.monotonic()
    chaos = Chaos(fleet, seed, epochs)
    while len(chaos.killed) < kills and not chaos.over():
        chaos.kill()
    verdicts = chaos.finish()
    return verdicts, table(verdicts, chaos, time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=150, help="length of each training")
    parser.add_argument("--results", type=Path, help="file to append the table to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorajob-chaos-") as name:
        home = Path(name)
        base = make_tiny_whisper(local_model("demo/whisper-base"), home / "tiny")
        port = free_port()
        fleet = Fleet(home, fleet_settings(home, port, max_losses=1000), port, base)
        try:
            fleet.start_redis()
            verdicts, text = run(fleet, args.seed, args.kills, args.epochs)
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
