"""Check that the figures of a finished job are what its users measure.

    python bench/same_number.py JOB_DIR [--results RESULTS.md]

1. `delivered` against `independent`, twenty lines that know only faster-whisper and jiwer.
2. `tuned` against `lorajob transcribe` of the test clips as files.
3. The gate's figure of long files by lorajob's decoder against `lorajob transcribe` of that file.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lorajob.cores import cpu_share

os.environ.update(cpu_share(os.environ))  # before a library starts threads

import ctranslate2
import jiwer
import soundfile
from faster_whisper import WhisperModel
from real_speech import machine

from lorajob.decoding.config import read_config
from lorajob.gate.recordings import LONG_SECONDS, SpokenClip, join_clips
from lorajob.job.jobdir import JobDir
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.sample import balanced
from lorajob.speech.scoring import rate_of_set
from lorajob.transcribe import transcribe

Pair = tuple[Path, str]  # an audio file and what is said in it


def independent(model: Path, language: str, pairs: Sequence[Pair]) -> tuple[float, float]:
    """WER and CER in percent, by faster-whisper's defaults."""

    def plain(text: str) -> str:
        text = unicodedata.normalize("NFC", text).casefold()
        kept = (" " if unicodedata.category(it)[0] in "PS" else it for it in text)
        return " ".join("".join(kept).split())

    ctranslate2.set_random_seed(0)
    whisper = WhisperModel(str(model))
    said, heard = [], []
    for path, text in pairs:
        segments, _ = whisper.transcribe(str(path), language=language)
        heard.append(plain(" ".join(it.text.strip() for it in segments)))
        said.append(plain(text))
    return 100 * jiwer.wer(said, heard), 100 * jiwer.cer(said, heard)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--results", type=Path, help="append a table here, such as RESULTS.md")
    args = parser.parse_args()
    job = JobDir(args.job_dir)
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(job, Path(folder))
    lines = ["| figure | in the job | measured again | difference |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {a:.2f} | {b:.2f} | {abs(a - b):.2f} |" for name, a, b in rows]
    table = "\n".join(lines) + "\n"
    print(table)
    if args.results:
        spec = JobSpec.load(job.spec_path)
        head = f"\n## The same numbers, {spec.language}, {time.strftime('%Y-%m-%d')}\n\n"
        head += f"- Machine: {machine()}\n- Command: `python bench/same_number.py JOB_DIR`\n\n"
        with args.results.open("a", encoding="utf-8") as file:
            file.write(head + table)
    return int(any(abs(a - b) > 0.5 for _, a, b in rows))


def compare(job: JobDir, folder: Path) -> list[tuple[str, float, float]]:
    """Each figure: its name, as the job has it, as it is measured here."""
    language = JobSpec.load(job.spec_path).language
    store = ClipStore(job.stage_dir("preprocess") / "test")
    result = job.result("evaluate")
    model = job.stage_dir("convert") / "model"
    config = read_config(model)
    if result is None or result.delivered is None or result.tuned is None or config is None:
        sys.exit(f"{job.root}: is no finished job of this version")
    lines = (job.stage_dir("evaluate") / "utterances.jsonl").read_text("utf-8").splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    files = {name: folder / f"{place}.wav" for place, name in enumerate(store.ids)}
    for place, path in enumerate(files.values()):
        soundfile.write(path, store.audio(place), SAMPLE_RATE, subtype="FLOAT")
    pairs = [(files[store.ids[place]], store.texts[place]) for place in decoded(job, store, rows)]
    wer, cer = independent(model, find_language(language).token, pairs)
    found = [
        ("`delivered`, WER", result.delivered.wer, wer),
        ("`delivered`, CER", result.delivered.cer, cer),
    ]
    tested = [files[name] for name in rows]
    said = [row["reference"] for row in rows.values()]
    heard = [text for _, text in transcribe(model, tested, config)]
    wer = rate_of_set(said, heard, "wer", language)
    found.append(("`tuned`, WER, against `lorajob transcribe`", result.tuned.wer, wer))
    guard = next((it for it in result.guards if it.name == "long_transcribe"), None)
    if guard is not None and guard.value is not None:
        path, text = long_file(job, rows, folder)
        metric = find_language(language).primary_metric
        heard = [said for _, said in transcribe(model, [path], config)]
        again = rate_of_set([text], heard, metric, language)
        found.append((f"long file, {metric.upper()}, against the gate's", guard.value, again))
    return found


def decoded(job: JobDir, store: ClipStore, rows: Mapping[str, Any]) -> list[int]:
    """The places of the clips that faster-whisper decoded, in the order of drawing.

    The order decides what is sampled where a transcript trips one of Whisper's thresholds.
    """
    spec = JobSpec.load(job.spec_path)
    places = [place for place in range(len(store)) if store.ids[place] in rows]
    wanted = spec.evaluate.delivered_clips
    drawn = balanced(places, store.ids, store.speakers, wanted, spec.seed)
    return [place for place in drawn if "delivered" in rows[store.ids[place]]]


def long_file(job: JobDir, rows: Mapping[str, Any], folder: Path) -> Pair:
    """The test clips that the gate joins, as a file, and what is said in it."""
    seed = JobSpec.load(job.spec_path).seed
    store = ClipStore(job.stage_dir("preprocess") / "test")
    clips = [
        SpokenClip(partial(store.audio, place), store.texts[place], "")
        for place in decoded(job, store, rows)
    ]
    joined = join_clips(clips, seed, least=LONG_SECONDS)
    path = folder / "long.wav"
    soundfile.write(path, joined.samples, SAMPLE_RATE, subtype="FLOAT")
    return path, " ".join(clip.reference for clip in joined.clips)


if __name__ == "__main__":
    sys.exit(main())
