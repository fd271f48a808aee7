"""Show how evenly the processes of one training share its steps. Nothing is trained.

    python bench/ranks.py [--clips 900000]

The clips have lengths like those of Common Voice. The balance is the mean work of a process as a
share of the busiest one's, over the first steps of an epoch: `in turn` if windows are dealt one
after another, `by cost` as training/shares.py deals them. Steps have as many clips as GPUs take
(training/device.py).
"""

import argparse
import random
import resource
import sys
import time
from itertools import islice

from lorajob.spec import TrainConfig
from lorajob.training.device import CLIPS_BY_MULTIPROCESSORS
from lorajob.training.packing import ClipSizes, Window, pass_seconds, plan_epoch
from lorajob.training.shares import STEPS_TO_JUDGE, balance

MEDIAN_SECONDS, SPREAD = 3.9, 0.45
TOKENS_A_SECOND = (8, 16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=900_000)
    args = parser.parse_args()
    sizes = clip_sizes(args.clips)
    print(f"{args.clips:,} clips, {sum(sizes.seconds) / 3600:,.0f} h\n")
    print("| processes | clips a step | in turn | by cost | to plan an epoch, CPU s |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    clips = sorted({clips for _, clips in CLIPS_BY_MULTIPROCESSORS})
    for processes in (2, 4, 8):
        for a_process in (1, *clips):
            config = TrainConfig(batch_clips=processes * a_process)
            started = time.process_time()
            plan = plan_epoch(sizes, config, 0, 0)
            taken = time.process_time() - started
            print(
                f"| {processes} | {config.batch_clips} | {in_turn(plan, sizes, processes):.2f} | "
                f"{balance(plan, sizes, processes):.2f} | {taken:.1f} |",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory: {peak:.0f} MiB")
    return 0


def clip_sizes(count: int) -> ClipSizes:
    """Lengths, tokens and speakers of made-up clips."""
    rng = random.Random(0)
    median = MEDIAN_SECONDS
    seconds = [min(29.9, max(0.5, median * rng.lognormvariate(0, SPREAD))) for _ in range(count)]
    tokens = [max(3, int(it * rng.uniform(*TOKENS_A_SECOND))) for it in seconds]
    return ClipSizes(seconds, tokens, [str(it % 3000) for it in range(count)])


def in_turn(plan: list[list[Window]], sizes: ClipSizes, processes: int) -> float:
    """The balance if windows are dealt one after another."""
    mean = busiest = 0.0
    for step in islice(plan, STEPS_TO_JUDGE):
        costs = [pass_seconds([0], [window], sizes) for window in step]
        loads = [sum(costs[number::processes]) for number in range(processes)]
        mean += sum(loads) / processes
        busiest += max(loads)
    return mean / busiest


if __name__ == "__main__":
    sys.exit(main())
