"""Measure the memory and the time saved by oneDNN's cache of kernels, for windows of many lengths.

    python bench/shapes.py JOB_DIR

JOB_DIR is a preprocessed job. Each size of the cache runs in its own process: first a pass with one
packed window, then passes with one clip each.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
PAGE_GIB = os.sysconf("SC_PAGE_SIZE") / 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--sizes", nargs="+", default=["16", "64", "200", "1024"])
    parser.add_argument("--one", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.one:
        print(measure(args.job_dir, args.passes))
        return 0
    print("| shapes kept | GiB at first | GiB at the end | CPU s |")
    print("| ---: | ---: | ---: | ---: |")
    for size in args.sizes:
        command = [sys.executable, __file__, str(args.job_dir), "--passes", str(args.passes)]
        env = os.environ | {VARIABLE: size}
        row = subprocess.check_output([*command, "--one"], env=env, text=True)
        print(f"| {size} | {row.strip()} |", flush=True)
    return 0


def measure(folder: Path, passes: int) -> str:
    """Resident memory after the first and the last pass, and CPU seconds without the first."""
    import torch

    from lorajob.job.jobdir import JobDir
    from lorajob.languages import find_language
    from lorajob.spec import JobSpec, TrainConfig
    from lorajob.speech.clipstore import ClipStore
    from lorajob.training.dataset import WindowDataset, collate
    from lorajob.training.loss import WhisperLoss
    from lorajob.training.packing import Window
    from lorajob.whisper.base_model import local_model
    from lorajob.whisper.model import load_for_training
    from lorajob.whisper.tokens import Labels

    job = JobDir(folder)
    spec = JobSpec.load(job.spec_path)
    base = local_model(spec.base_model)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    labels = Labels(base, find_language(spec.language).token)
    model = load_for_training(base, TrainConfig(precision="bf16"), torch.device("cpu"))
    loss = WhisperLoss(model).train()
    clips = random.Random(0).sample(range(len(store)), passes)
    windows = [Window(tuple(clips[:6]), False), *(Window((it,), False, cut=True) for it in clips)]
    dataset = WindowDataset(store, labels, windows)
    for number in range(len(windows)):
        batch = collate([dataset[number]])
        with torch.autocast("cpu", torch.bfloat16):
            loss(batch).backward()
        loss.zero_grad()
        if number == 0:
            first, started = resident(), time.process_time()
    return f"{first:.2f} | {resident():.2f} | {time.process_time() - started:.1f}"


def resident() -> float:
    """Resident memory of this process, in GiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_GIB


if __name__ == "__main__":
    sys.exit(main())
