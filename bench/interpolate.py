"""Error rates and forgetting of a tuned model between its base (share 0) and itself (share 1).

    python bench/interpolate.py JOB_DIR --shares 1 0.8 0.6 0.4 --clips 40

JOB_DIR is a job that has finished its training. For each share, the update of the weights is
multiplied by it (`train.interpolate`). `tuned` is the rate of the test clips by lorajob's decoder.
The guards are those of the gate (docs/formats.md).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from lorajob.cores import cpu_share

os.environ.update(cpu_share(os.environ))  # before a library starts threads

from lorajob.decoding.config import DecodeConfig
from lorajob.decoding.fast import Sound, decode
from lorajob.evaluate import read_training
from lorajob.gate.hearing import Clock, LoadedModel, Slot
from lorajob.gate.memory import (
    Spoken,
    check_foreign,
    check_other_languages,
    check_own_language,
)
from lorajob.job.jobdir import JobDir
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.sample import balanced
from lorajob.speech.scoring import score
from lorajob.whisper import ct2
from lorajob.whisper.base_model import local_model
from lorajob.whisper.model import load_whisper, merge_adapter


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.8, 0.6, 0.4])
    parser.add_argument("--clips", type=int, default=40, help="test clips")
    args = parser.parse_args()
    job = JobDir(args.job_dir)
    spec = JobSpec.load(job.spec_path)
    store = ClipStore(job.stage_dir("preprocess") / "test")
    places = balanced(range(len(store)), store.ids, store.speakers, args.clips, spec.seed)
    reads = [partial(store.audio, it) for it in places]
    texts = [store.texts[it] for it in places]
    limits, _ = read_training(job, store, spec.language)
    token = find_language(spec.language).token
    config = DecodeConfig(language=token, cut=spec.decodes_cut, limits=limits, seed=spec.seed)
    base = local_model(spec.base_model)
    slot, clock = Slot(), Clock(None)
    own = Spoken(spec.language, texts, reads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = ct2.convert(base, Path(scratch, "base"), "float16")
        before = LoadedModel(lambda: folder, clock, slot)
        plain = {name: it.data for name, it in load_whisper(base).named_parameters()}
        for share in args.shares:
            started = time.process_time()
            merged = merge_adapter(base, job.stage_dir("train") / "adapter")
            for name, weights in merged.named_parameters():
                weights.data.copy_(plain[name].lerp(weights.data, share))
            model = ct2.convert(base, Path(scratch, f"{share:g}"), "float16", merged)
            sounds = [
                Sound(float(store.seconds[it]), read)
                for it, read in zip(places, reads, strict=True)
            ]
            found = score(texts, decode(model, config, sounds), spec.language)
            tuned = LoadedModel(partial(Path, model), clock, slot)
            guards = [
                check_foreign(spec.language, tuned, before, 10),
                check_own_language(own, tuned, before, 10),
                check_other_languages(spec.language, tuned, before, 10),
            ]
            row: dict[str, object] = {"share": share, "wer": found.wer, "cer": found.cer}
            row |= {it.name: f"{it.value:.1f} ({it.base:.1f})" for it in guards}
            seconds = round(time.process_time() - started)
            print(json.dumps(row | {"cpu_seconds": seconds}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
