"""What suits the device that trains: clips a step, processes that read ahead, CUDA's settings."""

import os

import torch

from lorajob.cores import threads_a_stage
from lorajob.training.packing import USUAL_CLIPS

# Clips an optimizer step by a card's multiprocessors, the first row that fits. With fewer a card
# waits for the program that starts its operations; bench/RESULTS.md ("One GPU") has the H100's.
CLIPS_BY_MULTIPROCESSORS = ((100, 64), (50, 32), (0, 16))
LOADER_WORKERS = 8  # at most; each decodes FLAC some 500 times faster than it sounds
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"


def usual_clips(processes: int = 1) -> int:
    """Clips an optimizer step that all `processes` together compute well."""
    if not torch.cuda.is_available():
        return USUAL_CLIPS
    found = torch.cuda.get_device_properties(0).multi_processor_count
    clips = next(clips for least, clips in CLIPS_BY_MULTIPROCESSORS if found >= least)
    return clips * processes


def loader_workers(wanted: int | None, device: torch.device, processes: int) -> int:
    """`wanted`, else none on a CPU, and beside a card this process's share of the CPU's cores."""
    if wanted is not None:
        return wanted
    if device.type == "cpu":
        return 0
    return max(1, min(LOADER_WORKERS, threads_a_stage() // processes - 1))


def set_up_cuda() -> None:
    """Before CUDA is first used: windows come in many lengths, so the allocator's blocks grow
    instead of lying about in sizes that are not asked for again; float32 products may be TF32.
    """
    os.environ.setdefault(ALLOCATOR, "expandable_segments:True")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan of 2 ms for each new shape
