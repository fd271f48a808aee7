"""Train with and without each switch of the training's windows, and score what people run.

    python bench/quality.py --corpus hi=cv-corpus-hi.tar.gz --corpus ml=cv-corpus-ml.tar.gz \
        --limit-train 200 --limit-test 40 --epochs 1 --json quality.json --results RESULTS.md

Each variant is a training of the same clips by its settings. Its model is converted and decoded by
faster-whisper with its own defaults and the language given: the single test clips, and the same
clips joined to files of a minute and more with pauses. The table has the difference of each variant
to the first one with its 95 % interval, by a paired bootstrap over clips or files. Also counted are
the words that a model hears in 30 s of each noise, and the share of clips of the other corpora in
which it hears its own language.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from faster_whisper import WhisperModel
from identify import heard_languages
from numpy.typing import NDArray
from real_speech import machine

from lorajob.job.jobdir import JobDir, write_json
from lorajob.languages import find_language
from lorajob.spec import build_spec
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.noise import NOISE_KINDS, noise, room_tone
from lorajob.speech.text import normalise
from lorajob.whisper import ct2
from lorajob.whisper.base_model import local_model
from lorajob.whisper.model import merge_adapter

TIMED, JITTER, ROOM, NO_SPEECH = SWITCHES = {
    "train.clip_timestamps": ("0", "0.3"),
    "train.timestamp_jitter": ("false", "true"),
    "train.room_pauses": ("false", "true"),
    "train.no_speech": ("0", "0.02"),
}


def _only(*switches: str) -> tuple[str, ...]:
    """The settings with these switches on and the others off."""
    return tuple(f"{name}={values[name in switches]}" for name, values in SWITCHES.items())


# Of the first variant the differences are taken.
VARIANTS: dict[str, tuple[str, ...]] = {
    "off": _only(),
    "timestamps": _only(TIMED, JITTER),
    "room": _only(ROOM),
    "no-speech": _only(NO_SPEECH),
    "all": _only(*SWITCHES),
}
LONG_SECONDS = 60.0
NOISE_SECONDS = 30.0
GUARD_CLIPS = 24
SAMPLES = 2000
Pair = tuple[str, str]  # reference, hypothesis


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", action="append", required=True, metavar="LANG=FILE")
    parser.add_argument("--base-model", default="demo/whisper-base", help="as for submit")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each variant")
    parser.add_argument("--limit-train", type=int, help="use so many of the training clips")
    parser.add_argument("--limit-test", type=int, help="use so many of the test clips")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path, help="file for the figures; finished runs are kept")
    parser.add_argument("--results", type=Path, help="append a table here, such as RESULTS.md")
    args = parser.parse_args()
    corpora = dict(line.split("=", 1) for line in args.corpus)
    found: dict[str, Any] = {}
    if args.json and args.json.exists():
        found = json.loads(args.json.read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="lorajob-quality-") as name:
        work = Path(name)
        os.environ.setdefault("LORAJOB_HOME", str(work / "home"))
        read = {lang: prepare(work / lang, lang, Path(it), args) for lang, it in corpora.items()}
        for lang, variant, seed in _runs(corpora, args):
            key = f"{lang}/{variant}/{seed}"
            if key not in found:
                found[key] = measure(work / "run", lang, variant, seed, read, args)
                if args.json:
                    write_json(args.json, found)
    section = _section(found, corpora, args)
    if args.results:
        with args.results.open("a", encoding="utf-8") as file:
            file.write(section)
    print(section)
    return 0


def _runs(corpora: dict[str, str], args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for seed in range(args.seeds):
        for variant in args.variants:
            for lang in corpora:
                yield lang, variant, seed


def prepare(folder: Path, lang: str, corpus: Path, args: argparse.Namespace) -> JobDir:
    """A job whose preprocessing is finished."""
    return _staged(JobDir(folder), lang, corpus, "preprocess", (), 0, args)


def _staged(
    job: JobDir,
    lang: str,
    corpus: Path,
    stage: str,
    sets: tuple[str, ...],
    seed: int,
    args: argparse.Namespace,
) -> JobDir:
    limits = [f"train.epochs={args.epochs}", f"seed={seed}"]
    limits += [f"preprocess.max_train_clips={args.limit_train}"] if args.limit_train else []
    limits += [f"preprocess.max_test_clips={args.limit_test}"] if args.limit_test else []
    values = {"language": lang, "corpus": str(corpus.resolve()), "base_model": args.base_model}
    spec = build_spec(values, "default", [*limits, *args.sets, *sets])
    write_json(job.spec_path, spec.model_dump(mode="json"))
    command = [sys.executable, "-m", "lorajob.stage", stage, str(job.root)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return job


def measure(
    folder: Path,
    lang: str,
    variant: str,
    seed: int,
    read: dict[str, JobDir],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Train one variant and score it."""
    shutil.rmtree(folder, ignore_errors=True)
    job = JobDir(folder)
    shutil.copytree(read[lang].stage_dir("preprocess"), job.stage_dir("preprocess"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _staged(job, lang, Path(), "train", VARIANTS[variant], seed, args)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    base = local_model(args.base_model)
    adapter = job.stage_dir("train") / "adapter"
    model = ct2.convert(base, folder / "model", "float32", merge_adapter(base, adapter))
    test = ClipStore(job.stage_dir("preprocess") / "test")
    token = find_language(lang).token
    hear = listener(model, token)
    single = [(test.texts[it], hear(test.audio(it))) for it in range(len(test))]
    long = [(text, hear(audio)) for text, audio in joined(test)]
    rng = np.random.default_rng(0)
    empty = {it: hear(noise(it, round(NOISE_SECONDS * SAMPLE_RATE), rng)) for it in NOISE_KINDS}
    guard = [
        (store, index)
        for other, it in read.items()
        if other != lang
        for store in [ClipStore(it.stage_dir("preprocess") / "test")]
        for index in range(min(GUARD_CLIPS, len(store)))
    ]
    clips = [lambda store=store, index=index: store.audio(index) for store, index in guard]
    heard = heard_languages(model, clips) if clips else []
    took = {"cpu_seconds": cpu, "single": single, "long": long, "noise": empty}
    return took | {"guard": [code == token for code in heard]}


def listener(model: Path, token: str) -> Callable[[Samples], str]:
    """faster-whisper's own defaults, with the language given."""
    whisper = WhisperModel(str(model), device="auto", compute_type="int8")

    def hear(samples: Samples) -> str:
        segments, _ = whisper.transcribe(samples, language=token)
        return " ".join(segment.text.strip() for segment in segments)

    return hear


def joined(store: ClipStore) -> Iterator[tuple[str, Samples]]:
    """Clips joined to files of LONG_SECONDS and more, with pauses of 0.3 to 1.5 s of room tone."""
    rng = np.random.default_rng(0)
    texts: list[str] = []
    parts: list[Samples] = []
    for index in range(len(store)):
        audio = store.audio(index)
        pause = round(rng.uniform(0.3, 1.5) * SAMPLE_RATE)
        parts += [audio, room_tone(audio, pause, rng)]
        texts.append(store.texts[index])
        if sum(map(len, parts)) >= LONG_SECONDS * SAMPLE_RATE or index == len(store) - 1:
            yield " ".join(texts), np.concatenate(parts)
            texts, parts = [], []


def counts(pairs: list[Pair], metric: str) -> NDArray[np.int64]:
    """[utterances, 2]: errors, and the words or characters of the reference."""
    rows = []
    for reference, hypothesis in pairs:
        said, heard = normalise(reference, "hi"), normalise(hypothesis, "hi")
        process: Any = jiwer.process_words if metric == "wer" else jiwer.process_characters
        found = process(said, heard)
        wrong = found.substitutions + found.deletions
        rows.append((wrong + found.insertions, wrong + found.hits))
    return np.array(rows, dtype=np.int64)


def difference(first: NDArray[np.int64], other: NDArray[np.int64]) -> tuple[float, float, float]:
    """The rate of `other` minus that of `first`, in points, and its 95 % interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(first), size=(SAMPLES, len(first)))

    def rate(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        sums = rows[drawn].sum(axis=1)
        result: NDArray[np.float64] = 100 * sums[:, 0] / sums[:, 1]
        return result

    low, high = np.percentile(rate(other) - rate(first), [2.5, 97.5])
    return _rate(other) - _rate(first), float(low), float(high)


def _rate(rows: NDArray[np.int64]) -> float:
    errors, length = rows.sum(axis=0)
    return float(100 * errors / length)


def _section(found: dict[str, Any], corpora: dict[str, str], args: argparse.Namespace) -> str:
    words = ["python", "bench/quality.py"]
    words += [
        word for lang, it in corpora.items() for word in ("--corpus", f"{lang}={Path(it).name}")
    ]
    words += ["--variants", *args.variants, "--epochs", str(args.epochs)]
    words += ["--seeds", str(args.seeds)]
    for name, value in (("--limit-train", args.limit_train), ("--limit-test", args.limit_test)):
        words += [name, str(value)] if value else []
    words += [word for line in args.sets for word in ("--set", line)]
    lines = [
        f"\n## Windows of the training, {args.base_model}, {time.strftime('%Y-%m-%d')}\n",
        f"- Machine: {machine()}",
        f"- Command: `{shlex.join(words)}`",
        "- Decoded by faster-whisper's defaults (int8) with the language given. WER and CER in "
        "percent; in brackets the difference to the first variant and its 95 % interval, paired.\n",
        "| language | variant | seed | training, CPU s | clips WER | clips CER | long WER "
        "| long CER | words in noise | other languages taken for it |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for lang, variant, seed in _runs(corpora, args):
        key, first = f"{lang}/{variant}/{seed}", f"{lang}/{args.variants[0]}/{seed}"
        row = found[key]
        cells = [lang, variant, str(seed), f"{row['cpu_seconds']:.0f}"]
        for kind in ("single", "long"):
            for metric in ("wer", "cer"):
                own = counts(row[kind], metric)
                cell = f"{_rate(own):.1f}"
                if key != first:
                    it = difference(counts(found[first][kind], metric), own)
                    cell += f" ({it[0]:+.1f}: {it[1]:+.1f} to {it[2]:+.1f})"
                cells.append(cell)
        cells.append(str(sum(len(normalise(it, "hi").split()) for it in row["noise"].values())))
        cells.append(f"{sum(row['guard'])} of {len(row['guard'])}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
