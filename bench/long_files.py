"""Error rates of `lorajob transcribe` on single files and on the same clips joined to long ones.

    python bench/long_files.py JOB_DIR [--clip-seconds 15]

JOB_DIR is a finished job. Ten test clips make a file, with pauses of 0.3 to 1.5 s of faint noise.
`--clip-seconds` replaces the length up to which speech is joined into a piece.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from lorajob.cores import cpu_share

os.environ.update(cpu_share(os.environ))  # before a library starts threads

import numpy as np
import soundfile

from lorajob.decoding.config import read_config
from lorajob.job.jobdir import JobDir
from lorajob.spec import JobSpec
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import score
from lorajob.transcribe import transcribe

CLIPS_A_FILE = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--clip-seconds", type=float)
    args = parser.parse_args()
    job = JobDir(args.job_dir)
    model = job.stage_dir("convert") / "model"
    config = read_config(model)
    if config is None:
        sys.exit(f"{model}: has no lorajob.json; convert it with this version")
    if args.clip_seconds:
        limits = config.limits.model_copy(update={"seconds": args.clip_seconds})
        config = config.model_copy(update={"limits": limits})
    store = ClipStore(job.stage_dir("preprocess") / "test")
    language = JobSpec.load(job.spec_path).language
    clips = [store.audio(place) for place in range(len(store))]
    starts = range(0, len(clips), CLIPS_A_FILE)
    sets = {
        "single": (clips, store.texts),
        "long": (
            [joined(clips[it : it + CLIPS_A_FILE], seed=it) for it in starts],
            [" ".join(store.texts[it : it + CLIPS_A_FILE]) for it in starts],
        ),
    }
    for name, (sounds, references) in sets.items():
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, f"{number}.wav") for number in range(len(sounds))]
            for path, samples in zip(files, sounds, strict=True):
                soundfile.write(path, samples, SAMPLE_RATE)
            started = time.process_time()
            heard = [text for _, text in transcribe(model, files, config)]
            spent = time.process_time() - started
        found = score(references, heard, language)
        row = {"files": len(files), "wer": found.wer, "cer": found.cer, "cpu_seconds": spent}
        print(json.dumps({"set": name} | row))
    return 0


def joined(clips: list[Samples], seed: int) -> Samples:
    """The clips one behind the other, each with a pause behind it."""
    random = np.random.default_rng(seed)
    parts = []
    for clip in clips:
        pause = random.standard_normal(int(SAMPLE_RATE * random.uniform(0.3, 1.5)))
        parts += [clip, (0.0005 * pause).astype(np.float32)]
    return np.concatenate(parts)


if __name__ == "__main__":
    sys.exit(main())
