"""Time trainings that run beside each other or beside another busy program on this machine.

    python bench/neighbours.py JOB_DIR [--clips 12] [--spin]

JOB_DIR is a preprocessed job. Copies of it train on its first clips. The ideal time of N trainings
on C cores is N times the CPU time of one, divided by C. Both times include start-up. For comparison
`--spin` lets waiting threads spin, as is OpenMP's default. This can take long.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lorajob.cores import usable_cores
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.speech.clipstore import ClipStore, ClipWriter

SPINNING = {"GOMP_SPINCOUNT": "300000", "OMP_WAIT_POLICY": "ACTIVE"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--spin", action="store_true")
    args = parser.parse_args()
    env = {k: v for k, v in os.environ.items() if k not in SPINNING}
    env |= SPINNING if args.spin else {}
    cores = usable_cores()
    print(f"{cores} cores, {args.clips} clips a training\n")
    print("| | wall s | CPU s | of the ideal |\n| --- | ---: | ---: | ---: |")
    alone = 0.0
    with tempfile.TemporaryDirectory() as name:
        for count in args.counts:
            jobs = [
                copy_of(args.job_dir, Path(name, f"{count}-{n}"), args.clips) for n in range(count)
            ]
            wall, cpu = train(jobs, env)
            alone = alone or cpu
            ideal = max(count * alone / cores, wall if count == 1 else 0.0)
            print(f"| {count} | {wall:.1f} | {cpu:.1f} | {wall / ideal:.2f} |", flush=True)
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            job = copy_of(args.job_dir, Path(name, "busy"), args.clips)
            wall, cpu = train([job], env)
        finally:
            busy.kill()
            busy.wait()
        print(f"| 1, beside a program that takes a core | {wall:.1f} | {cpu:.1f} | |")
    return 0


def copy_of(job_dir: Path, target: Path, clips: int) -> JobDir:
    """Make a new job with the first clips of another."""
    given, job = JobDir(job_dir), JobDir(target)
    values = json.loads(given.spec_path.read_text("utf-8"))
    values["train"] |= {"epochs": 1}
    write_json(job.spec_path, values)
    store = ClipStore(given.stage_dir("preprocess") / "train")
    out = job.new_attempt("preprocess", 1)
    with ClipWriter(out / "train", "flac") as writer:
        for n in range(min(clips, len(store))):
            writer.add(
                store.ids[n],
                store.audio(n),
                store.texts[n],
                store.speakers[n],
                int(store.tokens[n]),
            )
    shutil.copytree(given.stage_dir("preprocess") / "test", out / "test")
    job.commit("preprocess", out, StageResult())
    return job


def train(jobs: list[JobDir], env: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds until all trainings have finished."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    command = [sys.executable, "-m", "lorajob.stage", "train"]
    stages = [
        subprocess.Popen(
            [*command, str(job.root)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for job in jobs
    ]
    codes = [stage.wait() for stage in stages]
    if any(codes):
        raise SystemExit(f"trainings ended with {codes}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, cpu


if __name__ == "__main__":
    sys.exit(main())
