"""Compare greedy decoding of a tuned model by transformers' generate and by CTranslate2.

    python bench/decoding.py JOB_DIR --clips 32

JOB_DIR is a job that was trained on cut windows. CPU seconds are those of this process, without
loading the models. WER is that of the same test clips. CTranslate2 decodes windows of 30 s first,
then cut windows. `lorajob transcribe` is measured in both ways too, with the job's model in
float16; there faster-whisper decodes padded windows one at a time.
"""

import argparse
import gc
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

from lorajob.convert import spread
from lorajob.job.jobdir import JobDir
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.clipstore import ClipStore
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
    indices = spread(range(len(store)), clips)
    folder = local_model(spec.base_model)
    labels = Labels(folder, find_language(spec.language).token)
    references = [store.texts[index] for index in indices]
    with TemporaryDirectory() as scratch:
        model = merge_adapter(folder, job.stage_dir("train") / "adapter")
        float32 = ct2.convert(folder, Path(scratch, "ct2"), "float32", model)
        decoder = ct2.Decoder(float32, labels)
        ways: dict[str, Callable[[], list[str]]] = {
            "generate": lambda: generate(model, store, indices, labels),
            "ctranslate2": lambda: decoder.transcribe(store, indices, DECODE_BATCH),
            "ctranslate2_cut": lambda: decoder.transcribe(store, indices, DECODE_BATCH, cut=True),
        }
        files = write_files([store.audio(index) for index in indices], Path(scratch))
        shipped = ct2.convert(folder, Path(scratch, "float16"), "float16", model)
        for name, cut in (("transcribe", False), ("transcribe_cut", True)):
            ways[name] = partial(transcribe_all, shipped, files, labels, cut)
        if sizes:
            cut = partial(decoder.transcribe, store, indices, cut=True)
            ways = {f"evaluate.batch_size={size}": partial(cut, batch_size=size) for size in sizes}
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


def transcribe_all(model: Path, files: list[Path], labels: Labels, cut: bool) -> list[str]:
    """Transcribe as `lorajob transcribe` does, with the model loaded once.

    faster-whisper collects garbage after each file. In this process that would search all of
    torch's objects, which a process of `lorajob transcribe` does not have; so they are frozen.
    """
    gc.freeze()
    return [text for _, text in transcribe(model, files, labels.language_token, cut)]


@torch.no_grad()
def generate(model: Any, store: ClipStore, indices: Sequence[int], labels: Labels) -> list[str]:
    """Greedy transcripts by transformers, padded to 30 s, with lorajob's limits of tokens."""
    log_mel = LogMel(model.config.num_mel_bins)
    limits = ct2.token_limits(store, indices)
    texts: list[str] = []
    for start in range(0, len(indices), GENERATE_BATCH):
        audio = [store.audio(index) for index in indices[start : start + GENERATE_BATCH]]
        rows = model.generate(
            input_features=log_mel(pad_windows(audio)),
            language=labels.language_token,
            task="transcribe",
            num_beams=1,
            do_sample=False,
            max_new_tokens=max(limits),
        )
        for row, limit in zip(rows, limits[start : start + GENERATE_BATCH], strict=True):
            spoken = [token for token in row.tolist() if token < labels.end]
            texts.append(labels.decode(spoken[:limit]))
    return texts


if __name__ == "__main__":
    sys.exit(main())
