"""Forecasts the time and memory of a training by a dry run of two of its forward passes.

The dry run does not change the training: its gradients are discarded, and each step draws its
dropout from its own seed.
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
from lorajob.training.dataset import PaddedBatch
from lorajob.training.packed import PackedBatch, Packer
from lorajob.training.passes import Passes
from lorajob.training.trainer import Run

# The next two are guesses. Some memory is lost between blocks, and few steps have more windows. On
# an H100 they led to passes of 16 windows of large-v3.
SHARE_OF_MEMORY = 0.9  # of a GPU's free memory
MOST_WINDOWS = 32  # in a forward pass
# Runs of the median pass, because nearly all passes are like it. The costliest pass runs once.
COMMON_PASSES = 4
# The part of a CPU's training that the dry run may take, by the cost of its passes. The median pass
# runs LEAST_PASSES times in any case.
DRY_SHARE = 0.02
LEAST_PASSES = 2
GIB = 2**30
# Windows of many lengths leave gaps in a CPU's heap that a full window does not fit in. The gaps
# took about this much in the trainings of whisper-base in bench/RESULTS.md ("The planner's
# forecast"). A possible reason is that glibc keeps only blocks of up to 32 MB in the heap.
GAPS_BYTES = round(0.4 * GIB)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Forecast:
    """Forecast time and memory of the remaining steps."""

    steps: int
    seconds_a_step: float
    eta_seconds: float
    peak_memory_bytes: int  # resident set on a CPU, allocated by torch on CUDA

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Loaded(NamedTuple):
    """Memory of a process in bytes: its peak, and what is resident now."""

    peak: int
    resident: int


def loaded_memory() -> Loaded:
    """The memory of this process now."""
    return Loaded(peak_memory(), _resident_memory())


def forecast(run: Run, passes: Passes, loaded: Loaded) -> Forecast:
    """Forecast the remaining steps by timing some of their passes.

    There are two kinds of passes: with and without stored encoder outputs. Of each kind the median
    and the costliest pass are timed. Passes between the two are interpolated; cheaper passes are in
    proportion to the median. On a CPU a short training does not time the costliest pass: its time
    and its memory are estimated in proportion to the median's. The first pass of each shape also
    takes the time to record it. That is measured with one shape: that of the costliest pass, or
    another if the median pass has recorded it.
    `loaded` is the memory before the first computation. Raises torch.OutOfMemoryError.
    """
    steps = passes.left()
    together = passes.collate()
    shapes = together.shapes if isinstance(together, Packer) and run.recorded is not None else ()
    on_cpu = run.accelerator.device.type == "cpu"

    def seconds_of(batch: list[int]) -> float:
        return dry_pass(run, together([passes.dataset[index] for index in batch]))

    kinds: tuple[list[list[int]], list[list[int]]] = ([], [])
    for batch in (batch for step in steps for batch in step):
        kinds[passes.is_encoded(batch)].append(batch)
    seconds, needed = 0.0, 0
    # Stored outputs first: these passes take less memory, and freed memory is kept.
    for kind in filter(None, reversed(kinds)):
        larger = 1.0
        costs = [passes.seconds(batch) for batch in kind]
        middle, most = median_low(costs), max(costs)
        common = kind[costs.index(middle)]
        runs, times_most = _dry_runs(costs) if on_cpu else (COMMON_PASSES, True)
        # The minimum counts: the first pass is slower, and other programs can only add time.
        common_seconds = min(seconds_of(common) for _ in range(runs))
        costliest = kind[costs.index(most)]
        if times_most:
            most_seconds = seconds_of(costliest)
        else:
            most_seconds = common_seconds * most / middle
            larger = most / middle
        if shapes:
            unrecorded = {passes.shape(batch, shapes): batch for batch in kind}
            unrecorded.pop(passes.shape(common, shapes))
            again = seconds_of(costliest)
            first, second = most_seconds, again
            most_seconds = min(most_seconds, again)
            if unrecorded and passes.shape(costliest, shapes) not in unrecorded:
                other = next(iter(unrecorded.values()))
                first, second = seconds_of(other), seconds_of(other)
            seconds += max(0.0, first - second) * max(0, len(unrecorded) - 1)
        slope = (most_seconds - common_seconds) / (most - middle) if most > middle else 0.0
        seconds += sum(common_seconds * min(1.0, it / middle) for it in costs)
        seconds += sum(slope * max(0.0, it - middle) for it in costs)
        if on_cpu:
            needed = max(needed, _needed(run, loaded, larger))
    peak = _cpu_peak(passes, loaded, needed) if on_cpu else peak_memory()
    return Forecast(len(steps), seconds / len(steps), seconds, peak)


def _dry_runs(costs: list[float]) -> tuple[int, bool]:
    """How often a CPU times the median pass, and whether it times the costliest one."""
    middle, budget = median_low(costs), DRY_SHARE * sum(costs)
    times_most = budget - max(costs) >= LEAST_PASSES * middle
    left = budget - max(costs) * times_most
    return min(COMMON_PASSES, max(LEAST_PASSES, int(left / middle))), times_most


def _needed(run: Run, loaded: Loaded, larger: float) -> int:
    """The memory of a pass that is `larger` than the largest so far."""
    kept = loaded.resident + run.copied_bytes
    # Freed memory is kept, so what is resident now is what the largest pass took.
    return kept + round(larger * max(0, _resident_memory() - kept))


def _cpu_peak(passes: Passes, loaded: Loaded, needed: int) -> int:
    """The peak memory of a CPU's training, if its largest pass takes `needed` bytes."""
    # Encoder outputs are read through memory maps, which count as resident.
    stored: int = passes.dataset.encoded.bytes
    gaps = min(GAPS_BYTES, needed - loaded.resident)
    # Loading may have taken more for a moment.
    return max(peak_memory(), needed + gaps + stored)


def write_forecast(path: Path, ahead: Forecast) -> None:
    """Write a forecast to forecast.json at `path` and to the log."""
    write_json(path, ahead.as_dict())
    log.info(
        "%d steps of about %.2f s: %.0f s; %.2f GiB at most",
        ahead.steps,
        ahead.seconds_a_step,
        ahead.eta_seconds,
        ahead.peak_memory_bytes / GIB,
    )


def write_measured(path: Path, ahead: Forecast, seconds: float) -> None:
    """Write the measured time and memory beside the forecast, to the same file and to the log."""
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


def dry_pass(run: Run, batch: PaddedBatch | PackedBatch) -> float:
    """Seconds of one forward and backward pass. Its gradients are always discarded."""
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
    """Peak memory so far, in bytes: allocated on the GPU, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident_memory() -> int:
    """Resident memory now, in bytes; the peak on a system without /proc."""
    try:
        pages = Path("/proc/self/statm").read_text("utf-8").split()[1]
    except OSError:
        return peak_memory()
    return int(pages) * resource.getpagesize()


def pick_micro_batch(run: Run, full: PaddedBatch) -> int:
    """How many full windows fit into a forward pass on this device.

    On a CPU it is 1, because more windows are not faster. `full` is one window of 30 s with its
    labels.
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
    """How many windows' activations fit into memory: a power of two, at least 1."""
    most = int(SHARE_OF_MEMORY * free_bytes) // max(1, window_bytes)
    return min(MOST_WINDOWS, 1 << max(0, most.bit_length() - 1))
