"""Compare trainings by the losses of their own steps.

    python bench/online.py JOB_DIR OTHER_JOB_DIR...

In the first epoch the model meets each clip for the first time, so the loss of a step is one on new
clips. Later epochs are left out, by the plan that a CPU makes of the job. Decoding or a further
forward pass is not needed, and a training that has not ended can be compared too. The jobs need the
same clips, windows and seed: then their steps are paired. Each training's mean is over the steps
after the first --skip ones that all of them have taken. The difference to the first job has a 95 %
interval, by a bootstrap over steps. While the learning rate is high, the loss may be above what its
fall to 0 makes of it: compare rates by whole trainings.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorajob.errors import LorajobError, first_line
from lorajob.job.history import read_history
from lorajob.job.jobdir import JobDir
from lorajob.spec import JobSpec
from lorajob.training.dataset import lay_out
from lorajob.training.packing import plan_epoch

SAMPLES = 2000  # of the bootstrap


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", type=Path, nargs="+", help="folders of trained jobs")
    parser.add_argument("--skip", type=int, default=10, help="first steps to leave out (10)")
    args = parser.parse_args()
    seeds = {str(path): read_spec(path).seed for path in args.jobs}
    if len({*seeds.values()}) > 1:
        sys.exit(f"the trainings have different seeds, so their steps are not paired: {seeds}")
    print("\n".join(table({str(path): losses(path) for path in args.jobs}, args.skip)))
    return 0


def read_spec(job: Path) -> JobSpec:
    """The spec of a job. A folder without one ends the program with one line."""
    try:
        return JobSpec.load(JobDir(job).spec_path)
    except (OSError, LorajobError) as error:
        sys.exit(f"{job}: is no job: {first_line(error)}")


def losses(job: Path) -> NDArray[np.float64]:
    """The loss of each step of the first epoch of a job's training, in nats a token."""
    folder, spec = JobDir(job), read_spec(job)
    try:
        rows = read_history(folder.stage_dir("train")).splitlines()
        course = lay_out(spec, folder)
    except (OSError, LorajobError) as error:
        sys.exit(f"{job}: has no training to read: {first_line(error)}")
    first = len(plan_epoch(course.sizes, course.config, spec.seed, 0))
    return np.array([json.loads(row)["loss"] for row in rows[:first]], dtype=np.float64)


def table(found: dict[str, NDArray[np.float64]], skip: int) -> list[str]:
    """Rows of Markdown: each job's mean loss, and the difference to the first one."""
    steps = min(map(len, found.values()))
    if steps - skip < 2:
        sys.exit(f"--skip: {skip} of {steps} steps leave too few to compare; name a smaller number")
    first = next(iter(found.values()))[skip:steps]
    lines = [f"| job | loss, steps {skip + 1} to {steps} | difference |", "| --- | ---: | ---: |"]
    for name, all_losses in found.items():
        own = all_losses[skip:steps]
        drawn = np.random.default_rng(0).integers(len(own), size=(SAMPLES, len(own)))
        low, high = np.percentile((own - first)[drawn].mean(axis=1), [2.5, 97.5])
        more = own.mean() - first.mean()
        told = "" if name == next(iter(found)) else f"{more:+.3f}: {low:+.3f} to {high:+.3f}"
        lines.append(f"| {name} | {own.mean():.3f} | {told} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
