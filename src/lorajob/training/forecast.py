"""Before training: what it will take on this machine, by a dry run of two of its forward passes.

Nothing of the training changes by it: gradients are thrown away, and every step draws its dropout
from a seed of its own.
"""

import logging
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

import torch

from lorajob.job.jobdir import write_json
from lorajob.training.dataset import Batch
from lorajob.training.packed import PackedBatch
from lorajob.training.passes import Passes
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

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Loaded(NamedTuple):
    """Bytes that a process has taken, at most and now."""

    peak: int
    resident: int


def loaded_memory() -> Loaded:
    """As it is now."""
    return Loaded(peak_memory(), _resident_memory())


def forecast(run: Run, passes: Passes, loaded: Loaded) -> Forecast:
    """Time passes of the steps still to do: of each kind, with and without stored encoder outputs,
    the median and the costliest.

    Passes between the two are interpolated, cheaper ones are in proportion to the median.
    `loaded` is the memory before anything was computed. Raises torch.OutOfMemoryError.
    """
    steps = passes.left()
    together = passes.collate()

    def seconds_of(batch: list[int]) -> float:
        return dry_pass(run, together([passes.dataset[index] for index in batch]))

    kinds: tuple[list[list[int]], list[list[int]]] = ([], [])
    for batch in (batch for step in steps for batch in step):
        kinds[passes.is_encoded(batch)].append(batch)
    seconds = 0.0
    for kind in filter(None, kinds):
        costs = [passes.seconds(batch) for batch in kind]
        middle, most = median_low(costs), max(costs)
        common = kind[costs.index(middle)]
        # the first of its kind is slower, and other programs on the machine only ever add
        common_seconds = min(seconds_of(common) for _ in range(COMMON_PASSES))
        most_seconds = seconds_of(kind[costs.index(most)])
        slope = (most_seconds - common_seconds) / (most - middle) if most > middle else 0.0
        seconds += sum(common_seconds * min(1.0, it / middle) for it in costs)
        seconds += sum(slope * max(0.0, it - middle) for it in costs)
    peak = peak_memory()
    if run.accelerator.device.type == "cpu" and peak > loaded.peak:  # else loading took the most
        stored = passes.dataset.encoded.bytes  # read through memory maps, which count as resident
        peak += min(GAPS_BYTES, peak - loaded.resident) + stored
    return Forecast(len(steps), seconds / len(steps), seconds, peak)


def write_forecast(path: Path, ahead: Forecast) -> None:
    """Say what is to come, in forecast.json at `path` and in the log."""
    write_json(path, ahead.as_dict())
    log.info(
        "%d steps of about %.2f s: %.0f s; %.2f GiB at most",
        ahead.steps,
        ahead.seconds_a_step,
        ahead.eta_seconds,
        ahead.peak_memory_bytes / GIB,
    )


def write_measured(path: Path, ahead: Forecast, seconds: float) -> None:
    """Put what the training took beside its forecast, in the same file and in the log."""
    took_bytes = peak_memory()
    took = {"seconds": round(seconds, 1), "peak_memory_bytes": took_bytes}
    write_json(path, ahead.as_dict() | {"measured": took})
    log.info(
        "took %.0f s, forecast %.0f s; %.2f GiB, forecast %.2f GiB",
        seconds,
        ahead.eta_seconds,
        took_bytes / GIB,
        ahead.peak_memory_bytes / GIB,
    )


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
