"""Settings that depend on the device: clips in a step, loader processes, CUDA's settings."""

import os

import torch

from lorajob.cores import threads_a_stage
from lorajob.training.packing import USUAL_CLIPS

# (least multiprocessors of a GPU, clips in an optimizer step); the first row that fits counts. With
# fewer clips a GPU waits for the program that starts its operations. bench/RESULTS.md ("One GPU")
# has the measurement of the H100.
CLIPS_BY_MULTIPROCESSORS = ((100, 64), (50, 32), (0, 16))
LOADER_WORKERS = 8  # at most
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"


def usual_clips(processes: int = 1) -> int:
    """Clips in an optimizer step that suit all `processes` together."""
    if not torch.cuda.is_available():
        return USUAL_CLIPS
    found = torch.cuda.get_device_properties(0).multi_processor_count
    clips = next(clips for least, clips in CLIPS_BY_MULTIPROCESSORS if found >= least)
    return clips * processes


def loader_workers(wanted: int | None, device: torch.device, processes: int) -> int:
    """`wanted`, else 0 on a CPU, and on a GPU this process's share of the cores, at most 8."""
    if wanted is not None:
        return wanted
    if device.type == "cpu":
        return 0
    return max(1, min(LOADER_WORKERS, threads_a_stage() // processes - 1))


def set_up_cuda() -> None:
    """Configure CUDA. Call it before CUDA is first used.

    The allocator's blocks can grow: windows have many lengths, and blocks of fixed sizes would not
    be used again. float32 products may use TF32.
    """
    os.environ.setdefault(ALLOCATOR, "expandable_segments:True")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    # cuDNN's attention takes 2 ms to make a plan for each new shape.
    torch.backends.cuda.enable_cudnn_sdp(False)
