"""Before training: what it will take on this machine, by a dry run of two of its forward passes.

Nothing of the training changes by it: gradients are thrown away, and every step draws its dropout
from a seed of its own.
"""

import logging
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import torch

from lorajob.training.dataset import Batch
from lorajob.training.packed import PackedBatch
from lorajob.training.trainer import Run

# Both are guesses, tried on no card yet: memory is lost between blocks, and few steps have more
# windows.
SHARE_OF_MEMORY = 0.9  # of what a card has free
MOST_WINDOWS = 32  # a forward pass
COMMON_PASSES = 4  # of the median kind, which nearly all are like; the costliest is dear enough
GIB = 2**30
# While windows of every length come and go, a CPU's heap gets gaps that a full window does not fit
# in: about so much in the trainings of whisper-base that bench/RESULTS.md has ("The planner's
# forecast"), perhaps since glibc keeps only blocks of up to 32 MB there.
GAPS_BYTES = round(0.4 * GIB)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Forecast:
    """What the steps still to do will take."""

    steps: int
    seconds_a_step: float
    eta_seconds: float
    peak_memory_bytes: int  # resident set on a CPU, allocated by torch on CUDA

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Loaded(NamedTuple):
    """Bytes that a process has taken, at most and now."""

    peak: int
    resident: int


def loaded_memory() -> Loaded:
    """As it is now."""
    return Loaded(peak_memory(), _resident_memory())


def forecast(
    run: Run,
    kinds: Sequence[Sequence[list[int]]],
    cost: Callable[[list[int]], float],
    load: Callable[[list[int]], Batch | PackedBatch],
    steps: int,
    loaded: Loaded,
    mapped: int = 0,
) -> Forecast:
    """Time the median and the costliest pass of each kind; those in between are reckoned on a line
    between the two, cheaper ones in proportion to the median.

    `cost` of a pass is in seconds of audio, `load` gives its batch. `loaded` is the
    memory before anything was computed, `mapped` the bytes of files that are read meanwhile: they
    count as resident.
    """
    seconds = 0.0
    for passes in filter(None, kinds):
        costs = [cost(one) for one in passes]
        middle, most = median_low(costs), max(costs)
        common = load(passes[costs.index(middle)])
        # the first of its kind is slower, and what else the machine does only ever adds
        common_seconds = min(dry_pass(run, common) for _ in range(COMMON_PASSES))
        most_seconds = dry_pass(run, load(passes[costs.index(most)]))
        slope = (most_seconds - common_seconds) / (most - middle) if most > middle else 0.0
        seconds += sum(common_seconds * min(1.0, it / middle) for it in costs)
        seconds += sum(slope * max(0.0, it - middle) for it in costs)
    peak = peak_memory()
    if run.accelerator.device.type == "cpu" and peak > loaded.peak:  # else loading took the most
        peak += min(GAPS_BYTES, peak - loaded.resident) + mapped
    return Forecast(steps, seconds / steps, seconds, peak)


def dry_pass(run: Run, batch: Batch | PackedBatch) -> float:
    """Seconds of one forward and backward pass, whose gradients are dropped, come what may."""
    device = run.accelerator.device
    started = time.monotonic()
    try:
        run.take_pass(batch, 1)
        if device.type == "cuda":
            torch.cuda.synchronize()
    finally:
        run.adapter.clear_gradient()
    return time.monotonic() - started


def peak_memory() -> int:
    """Bytes at most so far: allocated on the card, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident_memory() -> int:
    """Bytes resident now; at most so far on a system without /proc."""
    try:
        pages = Path("/proc/self/statm").read_text("utf-8").split()[1]
    except OSError:
        return peak_memory()
    return int(pages) * resource.getpagesize()


def pick_micro_batch(run: Run, full: Batch) -> int:
    """Full windows a forward pass that this device takes; one on a CPU, which more do not speed up.

    `full` is one window of 30 s with its labels.
    """
    if run.accelerator.device.type != "cuda":
        return 1
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    dry_pass(run, full)
    window = torch.cuda.max_memory_allocated() - before
    free, _ = torch.cuda.mem_get_info()
    windows = windows_that_fit(free + torch.cuda.memory_reserved() - before, window)
    log.info("micro-batches of %d windows: one takes %.2f GiB", windows, window / GIB)
    return windows


def windows_that_fit(free_bytes: int, window_bytes: int) -> int:
    """How many windows' activations the memory holds, a power of two, at least one."""
    most = int(SHARE_OF_MEMORY * free_bytes) // max(1, window_bytes)
    return min(MOST_WINDOWS, 1 << max(0, most.bit_length() - 1))
