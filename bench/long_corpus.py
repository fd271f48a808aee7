"""Measure the memory of preprocessing for longer and longer corpora. It must not grow.

    python bench/long_corpus.py --hours 1 10 100

A manifest lists a few clips of ten seconds many times. A separate stage process reads each corpus,
and the script prints its largest resident set.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from lorajob.job.jobdir import JobDir, write_json
from lorajob.spec import build_spec
from lorajob.whisper.base_model import local_model

RATE = 48_000  # Hz, as Common Voice
CLIP_SECONDS = 10
CLIPS = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 10, 100])
    args = parser.parse_args()
    print("| hours | clips | peak resident MiB | CPU ms a clip |")
    print("| ---: | ---: | ---: | ---: |")
    with TemporaryDirectory(prefix="lorajob-long-") as name:
        work = Path(name)
        speak(work)
        for hours in args.hours:
            clips = round(hours * 3600 / CLIP_SECONDS)
            result = preprocess(work, clips)
            peak = result["peak_memory_bytes"] / 2**20
            each = 1000 * result["cpu_seconds"] / clips
            print(f"| {hours:g} | {clips:,} | {peak:.0f} | {each:.1f} |")
    return 0


def speak(work: Path) -> None:
    """Write clips of a faint tone each, which are fast to make and small."""
    time = np.arange(CLIP_SECONDS * RATE) / RATE
    for number in range(CLIPS):
        tone = 0.001 * np.sin(2 * np.pi * (100 + number) * time)
        soundfile.write(work / f"{number}.mp3", tone.astype(np.float32), RATE)


def preprocess(work: Path, clips: int) -> dict[str, float]:
    manifest = work / f"{clips}.tsv"
    with manifest.open("w", encoding="utf-8") as file:
        file.write("audio\ttext\tspeaker\tsplit\n")
        for number in range(clips):
            split = "test" if number % 100 == 0 else "train"
            file.write(f"{number % CLIPS}.mp3\tवाक्य {number}\ts{number % 50}\t{split}\n")
    job = JobDir(work / f"job-{clips}")
    values = {"language": "hi", "corpus": str(manifest), "base_model": "demo/whisper-base"}
    local_model(values["base_model"])
    write_json(job.spec_path, build_spec(values).model_dump(mode="json"))
    subprocess.run(
        [sys.executable, "-m", "lorajob.stage", "preprocess", str(job.root)],
        stdout=subprocess.DEVNULL,
        check=True,
        env=os.environ | {"LORAJOB_CACHE_GB": "0"},
    )
    manifest_of_stage = json.loads((job.stage_dir("preprocess") / "manifest.json").read_bytes())
    result: dict[str, float] = manifest_of_stage["result"]
    return result


if __name__ == "__main__":
    sys.exit(main())
