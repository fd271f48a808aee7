"""Train spoiled models, and see whether the gate refuses each one for the right reason.

    python bench/gate.py --corpus cv-corpus-hi.tar.gz --lang hi --limit-train 100 --limit-test 10

Each model is really trained, converted and heard:

good         the default settings
shuffled     each clip has the text of another one
forgotten    a learning rate over five times as high: the other languages are lost
timestamps   the timestamps in the labels are 0.00 and 30.00, wherever the speech is
silence      half as many clips again of silence, hum, noise and tones have all the same text
tokenizer    the good model, converted with a tokenizer in which the two tokens that the test texts
             have most often are exchanged

All but the first and the last are trained on --spoiled-clips clips, at a high rate. With --work the
bench goes on where it was ended.
"""

# ruff: noqa: E402  # the share of the CPU is set before numpy and torch start their threads

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lorajob.cores import share_cpu

share_cpu(os.environ)

import numpy as np
from real_speech import machine
from tokenizers import Tokenizer

from lorajob import convert
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.report import Report
from lorajob.job.results import StageResult
from lorajob.spec import build_spec
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.speech.clipstore import ClipStore, ClipWriter
from lorajob.speech.noise import NOISE_KINDS, noise
from lorajob.stage import run_stage
from lorajob.whisper.tokens import TIMESTAMPS, Labels

WRONG: dict[str, tuple[str, ...]] = {
    "good": (),
    "shuffled": ("own_clips",),
    "forgotten": ("forgetting",),
    "timestamps": ("timestamps", "segments", "long_form"),
    "silence": ("noise",),
    "tokenizer": ("conversion",),
}
FAST = "train.learning_rate=0.001"
NOISE_SECONDS = 28
SETS = {
    "shuffled": (FAST,),
    "forgotten": ("train.learning_rate=0.002",),
    "timestamps": (FAST, "train.clip_timestamps=1", "train.timestamps=1"),
    "silence": (FAST,),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="release or manifest")
    parser.add_argument("--lang", required=True, help="code of the language")
    parser.add_argument("--models", nargs="+", choices=WRONG, default=list(WRONG))
    parser.add_argument("--base-model", default="demo/whisper-base", help="as for submit")
    parser.add_argument("--limit-train", type=int, default=80)
    parser.add_argument("--limit-test", type=int, default=10)
    parser.add_argument("--spoiled-clips", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--work", type=Path, help="folder to keep, in place of a temporary one")
    parser.add_argument("--results", type=Path, help="append a table here, such as RESULTS.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorajob-gate-") as name:
        work = args.work or Path(name)
        os.environ.setdefault("LORAJOB_HOME", str(work / "home"))
        first = _job(work / "read", args)
        if first.result("preprocess") is None:
            run_stage("preprocess", first, 1, Report("preprocess", sys.stderr))
        found = {model: measure(model, first, work, args) for model in args.models}
    section = _section(found, args)
    print(section)
    if args.results:
        with args.results.open("a", encoding="utf-8") as file:
            file.write(section)
    return 0


def _job(folder: Path, args: argparse.Namespace, *sets: str) -> JobDir:
    job = JobDir(folder)
    given = {"language": args.lang, "corpus": str(args.corpus.resolve())}
    limits = (
        f"preprocess.max_train_clips={args.limit_train}",
        f"preprocess.max_test_clips={args.limit_test}",
        f"train.epochs={args.epochs}",
        f"evaluate.delivered_clips={args.limit_test}",
        "convert.check_clips=4",
    )
    spec = build_spec(given | {"base_model": args.base_model}, sets=(*limits, *args.sets, *sets))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(job.spec_path, spec.as_written())
    return job


def measure(model: str, first: JobDir, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The verdict about one model."""
    job = _job(work / model, args, *SETS.get(model, ()))
    if not job.stage_dir("preprocess").exists():
        shutil.copytree(first.stage_dir("preprocess"), job.stage_dir("preprocess"))
        if model in SETS:
            change = {"shuffled": _shuffled, "silence": _with_silence}.get(model, list)
            train = job.stage_dir("preprocess") / "train"
            _rewrite(train, lambda clips: change(clips[: args.spoiled_clips]))
    if model == "tokenizer" and (work / "good").exists():
        for stage in ("train", "evaluate"):
            if not job.stage_dir(stage).exists():
                shutil.copytree(JobDir(work / "good").stage_dir(stage), job.stage_dir(stage))
    # The conversion of the others is that of the good model.
    stages = ("train", "evaluate") if model in SETS else ("train", "evaluate", "convert")
    with ExitStack() as spoiled:
        if model == "timestamps":
            spoiled.enter_context(patch.object(Labels, "timestamp", _wrong_timestamp))
        if model == "tokenizer":
            texts = ClipStore(job.stage_dir("preprocess") / "test").texts
            other = _with_other_tokenizer(convert.delivered_model, texts)
            spoiled.enter_context(patch.object(convert, "delivered_model", other))
        for stage in stages:
            if job.result(stage) is None:
                run_stage(stage, job, 1, Report(stage, sys.stderr))
    result: StageResult | None = job.result(stages[-1])
    assert result is not None
    row = {"gate": result.gate, "guards": [it.model_dump(mode="json") for it in result.guards]}
    print(json.dumps({"model": model} | row, ensure_ascii=False), file=sys.stderr)
    return row


Clip = tuple[str, Any, str, str, int, bool]  # id, samples, text, speaker, tokens, dev


def _rewrite(folder: Path, change: Callable[[list[Clip]], list[Clip]]) -> None:
    """Replace the clips of a store."""
    store = ClipStore(folder)
    clips: list[Clip] = [
        (
            store.ids[it],
            store.audio(it),
            store.texts[it],
            store.speakers[it],
            int(store.tokens[it]),
            store.dev[it],
        )
        for it in range(len(store))
    ]
    shutil.rmtree(folder)
    with ClipWriter(folder, "flac") as writer:
        for clip in change(clips):
            writer.add(*clip)


def _shuffled(clips: list[Clip]) -> list[Clip]:
    moved = [*clips[7:], *clips[:7]]
    return [
        (own[0], own[1], other[2], own[3], other[4], own[5])
        for own, other in zip(clips, moved, strict=True)
    ]


def _with_silence(clips: list[Clip]) -> list[Clip]:
    rng = np.random.default_rng(0)
    _, _, text, speaker, tokens, _ = clips[0]
    more: list[Clip] = []
    for number, (name, *_) in enumerate(clips[::2]):
        kind = NOISE_KINDS[number % len(NOISE_KINDS)]
        samples = noise(kind, NOISE_SECONDS * SAMPLE_RATE, rng)
        more.append((f"{name}-{kind}", samples, text, speaker, tokens, False))
    return [*clips, *more]


def _wrong_timestamp(labels: Labels, seconds: float) -> int:
    return labels.no_timestamps + 1 + (TIMESTAMPS - 1 if seconds > 0 else 0)


def _with_other_tokenizer(make: Callable[..., str], texts: Sequence[str]) -> Callable[..., str]:
    """`make`, behind which two tokens of tokenizer.json are exchanged: the commonest of `texts`."""

    def made(folder: Path, adapter: Path, allowed: Any, kind: str, target: Path, *more: Any) -> str:
        digest = make(folder, adapter, allowed, kind, target, *more)
        path = target / "tokenizer.json"
        reads = Tokenizer.from_file(str(path))
        used = Counter(
            it for text in texts for it in reads.encode(text, add_special_tokens=False).tokens
        )
        (first, _), (second, _) = used.most_common(2)
        tokenizer = json.loads(path.read_text("utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        path.unlink()  # it may be a link to the cache
        path.write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
        return digest

    return made


def _section(found: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    words = ["python", "bench/gate.py", "--corpus", args.corpus.name, "--lang", args.lang]
    words += ["--models", *found, "--limit-train", str(args.limit_train)]
    words += ["--limit-test", str(args.limit_test), "--spoiled-clips", str(args.spoiled_clips)]
    words += ["--epochs", str(args.epochs)]
    words += [word for line in args.sets for word in ("--set", line)]
    lines = [
        f"\n## The gate and spoiled models, {args.lang}, {time.strftime('%Y-%m-%d')}\n",
        f"- Machine: {machine()}",
        f"- Command: `{shlex.join(words)}`; {args.base_model}\n",
        "| model | gate | guard that has to fail | failed guards, and what they found |",
        "| --- | --- | --- | --- |",
    ]
    for model, row in found.items():
        failed = [it for it in row["guards"] if it["state"] == "failed"]
        told = "; ".join(f"`{it['name']}`: {it['reason']}" for it in failed)
        wanted = " or ".join(f"`{it}`" for it in WRONG[model]) or "none"
        lines.append(f"| {model} | {row['gate']} | {wanted} | {told or 'none'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
