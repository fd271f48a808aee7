"""Reads the clips of a store from a cold disk: at random, and block by block as a training does.

    python bench/reading.py FOLDER [--hours 2] [--shuffle-hours 0.5] [--rate 200] [--windows N]

Clips are asked for at a training's pace, `--rate` of them a second. The waits are the page faults
in which a read of a clip had to wait for the disk. FOLDER should lie on the disk or share to
measure. The store is made there, once. Its files are dropped from this machine's file cache before
each reading; a server of the share may keep its own.
"""

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np

from lorajob.spec import TrainConfig
from lorajob.speech.clipstore import ClipStore, ClipWriter, encode_audio
from lorajob.training.packing import ClipSizes, Window, plan_epoch
from lorajob.training.reading import ReadAhead

SECONDS = 4.0
RATE = 16_000


def make_store(folder: Path, hours: float) -> ClipStore:
    """Clips of noise, which FLAC hardly makes smaller. Some 100 different ones repeat."""
    if not folder.exists():
        rng = np.random.default_rng(0)
        shape = (100, round(SECONDS * RATE))
        sounds = [encode_audio(it, "flac") for it in 0.02 * rng.standard_normal(shape)]
        with ClipWriter(folder, "flac") as writer:
            for number in range(round(3600 * hours / SECONDS)):
                sound = sounds[number % len(sounds)]
                writer.add_encoded(str(number), sound, SECONDS, "text", "speaker", 10)
    return ClipStore(folder)


def forget(folder: Path) -> None:
    """Drop the store's files from the file cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(folder: Path, windows: list[Window], horizon: int, rate: float) -> tuple[int, list[float]]:
    """Waits for the disk, and the seconds for each clip, in the order of `windows`."""
    forget(folder)
    store = ClipStore(folder)
    len(store)
    ahead = ReadAhead(store, windows, 0, horizon)
    before = waits()
    took = []
    due = time.monotonic()
    for number, window in enumerate(windows):
        if horizon:
            ahead.reach(number)
        for clip in window.clips:
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            store.audio(clip)
            took.append(time.monotonic() - began)
    ahead.close()
    return waits() - before, took


def waits() -> int:
    """Page faults of this thread that waited for a disk."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--shuffle-hours", type=float, default=0.5)
    parser.add_argument("--rate", type=float, default=200.0, help="clips a second")
    parser.add_argument("--windows", type=int, help="read only the first windows of the epoch")
    options = parser.parse_args()
    folder = options.folder / "clips"
    store = make_store(folder, options.hours)
    sizes = ClipSizes(store.seconds.tolist(), store.tokens.tolist(), store.speakers)
    megabytes = sum(it.stat().st_size for it in folder.iterdir()) / 1e6
    print(f"{len(store)} clips, {megabytes:.0f} MB")
    print("| order | waits for the disk | ms a clip, mean | 99 % | most |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, hours, ahead in (
        ("at random", options.hours, False),
        ("in blocks, read ahead", options.shuffle_hours, True),
        ("at random, read ahead", options.hours, True),
    ):
        config = TrainConfig(batch_clips=8, shuffle_hours=hours)
        plan = plan_epoch(sizes, config, seed=1, epoch=0)
        windows = [window for step in plan for window in step]
        horizon = round(len(windows) * hours / options.hours) if ahead else 0
        windows = windows[: options.windows]
        faults, took = read(folder, windows, horizon, options.rate)
        mean, high, most = (1e3 * it for it in (np.mean(took), np.quantile(took, 0.99), max(took)))
        print(f"| {name} | {faults:,} | {mean:.1f} | {high:.1f} | {most:.1f} |")


if __name__ == "__main__":
    main()
