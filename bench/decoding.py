"""Compare greedy decoding of a tuned model by transformers' generate and by CTranslate2.

    python bench/decoding.py JOB_DIR --clips 32

JOB_DIR is a job that has been evaluated. CPU seconds are those of this process; all ways but
transformers' load their model in them. WER is that of the same test clips.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import soundfile
import torch

from lorajob.decoding.config import DecodeConfig, read_config
from lorajob.decoding.delivered import listen
from lorajob.decoding.fast import Sound, decode
from lorajob.job.jobdir import JobDir
from lorajob.spec import JobSpec
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.sample import balanced
from lorajob.speech.scoring import score
from lorajob.transcribe import transcribe
from lorajob.whisper import ct2
from lorajob.whisper.base_model import local_model
from lorajob.whisper.features import LogMel, pad_windows
from lorajob.whisper.model import merge_adapter
from lorajob.whisper.tokens import Labels

GENERATE_BATCH = 8  # clips, as in the recipe's evaluation
DECODE_BATCH = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--clips", type=int, default=32, help="test clips to decode (default: 32)")
    parser.add_argument(
        "--batch-sizes",
        nargs="+",
        type=int,
        help="only CTranslate2 on cut windows, with these sizes",
    )
    args = parser.parse_args()
    print(json.dumps(measure(JobDir(args.job_dir), args.clips, args.batch_sizes or []), indent=2))
    return 0


def measure(job: JobDir, clips: int, sizes: Sequence[int] = ()) -> dict[str, dict[str, float]]:
    """CPU seconds for each clip, WER and CER of each way to decode."""
    spec = JobSpec.load(job.spec_path)
    store = ClipStore(job.stage_dir("preprocess") / "test")
    indices = balanced(range(len(store)), store.ids, store.speakers, clips, spec.seed)
    folder = local_model(spec.base_model)
    config = read_config(job.stage_dir("evaluate"))
    if config is None:
        sys.exit(f"{job.root}: evaluated by an older lorajob; run its stage evaluate again")
    references = [store.texts[index] for index in indices]
    sounds = [Sound(float(store.seconds[it]), partial(store.audio, it)) for it in indices]
    with TemporaryDirectory() as scratch:
        model = merge_adapter(folder, job.stage_dir("train") / "adapter")
        shipped = ct2.convert(folder, Path(scratch, "float16"), "float16", model)
        padded = config.model_copy(update={"cut": False})
        files = write_files([store.audio(index) for index in indices], Path(scratch))
        ways: dict[str, Callable[[], list[str]]] = {
            "generate": lambda: generate(model, sounds, folder, config),
            "faster_whisper": lambda: [
                it.text for it in listen(shipped, config.language, sounds, spec.seed).clips
            ],
            "fast": lambda: decode(shipped, padded, sounds),
            "fast_cut": lambda: decode(shipped, config, sounds),
            "transcribe": lambda: transcribe_all(shipped, files, config),
        }
        if sizes:
            fast = partial(decode, shipped, config, sounds)
            ways = {f"evaluate.batch_size={size}": partial(fast, size) for size in sizes}
        found = {}
        for name, way in ways.items():
            started = time.process_time()
            heard = way()
            taken = (time.process_time() - started) / len(indices)
            scores = score(references, heard)
            found[name] = {"cpu_seconds_a_clip": taken, "wer": scores.wer, "cer": scores.cer}
    return found


def write_files(clips: Sequence[Samples], folder: Path) -> list[Path]:
    paths = [folder / f"{number}.wav" for number in range(len(clips))]
    for path, clip in zip(paths, clips, strict=True):
        soundfile.write(path, clip, SAMPLE_RATE)
    return paths


def transcribe_all(model: Path, files: list[Path], config: DecodeConfig) -> list[str]:
    """Transcribe as `lorajob transcribe` does."""
    return [text for _, text in transcribe(model, files, config)]


@torch.no_grad()
def generate(model: Any, sounds: Sequence[Sound], folder: Path, config: DecodeConfig) -> list[str]:
    """Greedy transcripts by transformers, padded to 30 s, with lorajob's limits of tokens."""
    labels = Labels(folder, config.language)
    log_mel = LogMel(model.config.num_mel_bins)
    texts: list[str] = []
    for start in range(0, len(sounds), GENERATE_BATCH):
        batch = sounds[start : start + GENERATE_BATCH]
        limits = [config.limits.of(sound.seconds) for sound in batch]
        rows = model.generate(
            input_features=log_mel(pad_windows([sound.read() for sound in batch])),
            language=config.language,
            task="transcribe",
            num_beams=1,
            do_sample=False,
            max_new_tokens=max(limits),
        )
        for row, limit in zip(rows, limits, strict=True):
            spoken = [token for token in row.tolist() if token < labels.end]
            texts.append(labels.decode(spoken[:limit]))
    return texts


if __name__ == "__main__":
    sys.exit(main())
