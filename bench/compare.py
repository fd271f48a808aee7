"""Compare the public recipe with lorajob on the same clips, with the same epochs and base model.

    python bench/compare.py --corpus cv-corpus-ml.tar.gz --lang ml --epochs 1 --json ml.json

Each phase of both sides runs in its own process. Its CPU seconds come from the kernel and include
start-up and loading of the model. lorajob's stages run without a service and with an empty cache.
Evaluation counts the tuned model only, because the recipe evaluates only that. For this, lorajob
evaluates a second time, when the base model's transcripts are cached.

A step of the recipe has 8 clips, as published. lorajob uses its default; `--set
train.batch_clips=8` gives both the same. `--recipe FILE` measures only lorajob, and takes the
recipe's figures for the same clips from FILE, because the recipe takes most of the time.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from real_speech import GIB, RESULTS, machine

from lorajob.decoding.config import token_limits
from lorajob.job.jobdir import JobDir, write_json
from lorajob.languages import find_language
from lorajob.spec import build_spec
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import score
from lorajob.whisper.base_model import local_model
from lorajob.whisper.tokens import Labels

RECIPE = Path(__file__).with_name("seed_recipe.py")
DECODING = Path(__file__).with_name("decoding.py")
WAYS = {
    "generate": "transformers' generate",
    "faster_whisper": "faster-whisper's defaults (`delivered`)",
    "fast": "lorajob's decoder, 30 s windows",
    "fast_cut": "lorajob's decoder, windows cut to the clip (`tuned`)",
    "transcribe": "`lorajob transcribe`",
}
DEMO_TRAIN_CLIPS, DEMO_TEST_CLIPS = 96, 24
PHASES = {"prepare": "preprocess", "train": "train", "evaluate": "evaluate"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="release or manifest; default: the demo's")
    parser.add_argument("--lang", default="hi", help="code of the language (default: hi)")
    parser.add_argument("--base-model", default="demo/whisper-base", help="as for submit")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--limit-train", type=int, help="use so many of the training clips")
    parser.add_argument("--limit-test", type=int, help="use so many of the test clips")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--recipe", type=Path, metavar="JSON", help="take its figures from an earlier run's --json"
    )
    parser.add_argument("--decode-clips", type=int, default=0, help="as bench/decoding.py --clips")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--results", type=Path, help=f"append a table here, such as {RESULTS.name}")
    args = parser.parse_args()
    if args.corpus is None:  # a small default corpus
        args.limit_train = args.limit_train or DEMO_TRAIN_CLIPS
        args.limit_test = args.limit_test or DEMO_TEST_CLIPS
    with tempfile.TemporaryDirectory(prefix="lorajob-compare-") as name:
        work = Path(name)
        os.environ["LORAJOB_HOME"] = str(work / "home")
        corpus = args.corpus or _spoken(work)
        job, ours = run_ours(work / "ours", corpus, args)
        evaluate_again(job, ours)
        if args.recipe:
            recipe = earlier_recipe(args, ours)
        else:
            recipe = run_recipe(work / "recipe", corpus, job, args)
        figures = compare(ours, recipe) | {"asked": asked(args)}
        if args.decode_clips:
            command = [sys.executable, str(DECODING), str(job.root)]
            command += ["--clips", str(args.decode_clips)]
            figures["decoding"] = json.loads(subprocess.check_output(command))
    if args.json:
        write_json(args.json, figures)
    section = _section(figures, args, corpus.name)
    if args.results:
        with args.results.open("a", encoding="utf-8") as file:
            file.write(section)
    print(section)
    return 0


def run_ours(
    folder: Path, corpus: Path, args: argparse.Namespace, preset: str = "default"
) -> tuple[JobDir, dict[str, Any]]:
    """Run lorajob's first three stages. Returns the job and the cost of each stage."""
    sets = [f"train.epochs={args.epochs}"] if args.epochs else []
    sets += [f"preprocess.max_train_clips={args.limit_train}"] if args.limit_train else []
    sets += [f"preprocess.max_test_clips={args.limit_test}"] if args.limit_test else []
    values = {"language": args.lang, "corpus": str(corpus.resolve()), "base_model": args.base_model}
    spec = build_spec(values, preset, [*sets, *args.sets])
    job = JobDir(folder)
    write_json(job.spec_path, spec.model_dump(mode="json"))
    local_model(spec.base_model)  # converts the model once, before the measurements
    took: dict[str, Any] = {}
    for phase, stage in PHASES.items():
        with _cpu_of_children(took, phase):
            _run([sys.executable, "-m", "lorajob.stage", stage, str(job.root)])
    read, scores = job.result("preprocess"), job.result("evaluate")
    assert read is not None and scores is not None
    assert scores.base is not None and scores.tuned is not None
    took |= {"wer": scores.tuned.wer, "cer": scores.tuned.cer}
    took |= {name: read.as_json()[name] for name in ("bytes", "train_clips", "test_clips")}
    # A short training writes no forecast.
    forecast = job.stage_dir("train") / "forecast.json"
    took["forecast"] = json.loads(forecast.read_text("utf-8")) if forecast.exists() else None
    return job, took | {"base": scores.base.model_dump()}


def evaluate_again(job: JobDir, took: dict[str, Any]) -> None:
    """Evaluate as the second job of a corpus does. The first job also decodes with the base."""
    took["evaluate_first"] = took["evaluate"]
    shutil.rmtree(job.stage_dir("evaluate"))
    with _cpu_of_children(took, "evaluate"):
        _run([sys.executable, "-m", "lorajob.stage", "evaluate", str(job.root)])


def run_recipe(work: Path, corpus: Path, job: JobDir, args: argparse.Namespace) -> dict[str, Any]:
    """Run the recipe on the clips that lorajob kept. Returns the cost of each phase."""
    work.mkdir()
    splits = {name: ClipStore(job.stage_dir("preprocess") / name) for name in ("train", "test")}
    language = find_language(args.lang)
    values = {
        "base": str(local_model(args.base_model)),
        "corpus": str(corpus.resolve()),
        "language": language.code,
        "language_name": language.token,
        "epochs": args.epochs,
        "seed": 0,
    } | {name: store.ids for name, store in splits.items()}
    write_json(work / "recipe.json", values)
    took: dict[str, Any] = {}
    for phase in PHASES:
        with _cpu_of_children(took, phase):
            _run([sys.executable, str(RECIPE), phase, str(work)])
    heard = json.loads((work / "hypotheses.json").read_text("utf-8"))
    scores = score(splits["test"].texts, heard)
    bounded = score(splits["test"].texts, cut_short(heard, splits, args))
    took |= {"bounded": {"wer": bounded.wer, "cer": bounded.cer}}
    stored = sum(path.stat().st_size for path in work.glob("*.arrow"))
    return took | {"bytes": stored, "wer": scores.wer, "cer": scores.cer}


def cut_short(
    heard: list[str], splits: dict[str, ClipStore], args: argparse.Namespace
) -> list[str]:
    """Transcripts of the test clips, cut to lorajob's limits of tokens."""
    labels = Labels(local_model(args.base_model), find_language(args.lang).token)
    limits = token_limits(splits["train"].tokens, splits["train"].seconds)
    return [
        labels.decode(labels.encode(text)[: limits.of(float(seconds))])
        for text, seconds in zip(heard, splits["test"].seconds, strict=True)
    ]


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that decide the recipe's result, besides the corpus."""
    values = vars(args)
    return {name: values[name] for name in ("lang", "base_model", "epochs")}


def earlier_recipe(args: argparse.Namespace, ours: dict[str, Any]) -> dict[str, Any]:
    """The recipe's figures of an earlier run. Exits if its clips or settings were different."""
    earlier = json.loads(args.recipe.read_text("utf-8"))
    clips = ("train_clips", "test_clips", "bytes")
    same = all(earlier["ours"][name] == ours[name] for name in clips)
    if not same or earlier.get("asked") != asked(args):
        sys.exit(f"--recipe: {args.recipe} is of other clips, language, base model or epochs")
    recipe: dict[str, Any] = earlier["recipe"]
    return recipe


def compare(ours: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """The ratios of the recipe's figures to lorajob's, and the figures of both."""
    return {
        "prepare_ratio": recipe["prepare"] / ours["prepare"],
        "train_ratio": recipe["train"] / ours["train"],
        "evaluate_ratio": recipe["evaluate"] / ours["evaluate"],
        "bytes_ratio": recipe["bytes"] / ours["bytes"],
        "wer": {"recipe": recipe["wer"], "ours": ours["wer"]},
        "cer": {"recipe": recipe["cer"], "ours": ours["cer"]},
        "recipe": recipe,
        "ours": ours,
    }


@contextmanager
def _cpu_of_children(took: dict[str, Any], phase: str) -> Iterator[None]:
    """Note the CPU seconds, user and system, of the processes that the block waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took[phase] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(command: list[str]) -> None:
    started = time.monotonic()
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=os.environ)
    print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _spoken(work: Path) -> Path:
    from lorajob.demo.speech import demo_corpus

    return demo_corpus(work / "corpora")


def _section(figures: dict[str, Any], args: argparse.Namespace, corpus: str) -> str:
    ours, recipe = figures["ours"], figures["recipe"]
    words = ["python", "bench/compare.py", "--corpus", corpus, "--lang", args.lang]
    words += ["--base-model", args.base_model, "--epochs", str(args.epochs)]
    for name, value in (("--limit-train", args.limit_train), ("--limit-test", args.limit_test)):
        words += [name, str(value)] if value else []
    words += ["--recipe", args.recipe.name] if args.recipe else []
    words += ["--decode-clips", str(args.decode_clips)] if args.decode_clips else []
    words += [word for line in args.sets for word in ("--set", line)]
    lines = [
        f"\n## {args.lang}, {args.base_model}, side by side, {time.strftime('%Y-%m-%d')}\n",
        f"- Machine: {machine()}",
        f"- Command: `{shlex.join(words)}`",
        f"- Clips: {ours['train_clips']} to train on, {ours['test_clips']} to test; base model "
        f"WER {ours['base']['wer']:.1f}, CER {ours['base']['cer']:.1f}\n",
        "| | recipe | lorajob | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    rows = [(f"{phase}, CPU s", phase, f"{phase}_ratio", 1) for phase in PHASES]
    for title, key, ratio, digits in [*rows, ("bytes, MB", "bytes", "bytes_ratio", 1)]:
        unit = 1e6 if key == "bytes" else 1
        a, b = (f"{side[key] / unit:.{digits}f}" for side in (recipe, ours))
        lines.append(f"| {title} | {a} | {b} | {figures[ratio]:.2f} |")
    for key in ("wer", "cer"):
        lines.append(f"| {key.upper()} % | {recipe[key]:.1f} | {ours[key]:.1f} | |")
    if it := recipe.get("bounded"):
        lines += ["", "The recipe's transcripts cut to as many tokens as lorajob's may have: WER "]
        lines[-1] += f"{it['wer']:.1f}, CER {it['cer']:.1f}."
    first = f"{ours['evaluate_first']:.1f}"
    lines += ["", f"A corpus's first job decodes with the base model as well: evaluate {first} s."]
    if it := ours["forecast"]:
        came = it["measured"]
        lines.append(
            f"The forecast of the training was {it['eta_seconds']:.0f} s and "
            f"{it['peak_memory_bytes'] / GIB:.2f} GiB; it took {came['seconds']:.0f} s (ratio "
            f"{came['seconds'] / it['eta_seconds']:.2f}) and {came['peak_memory_bytes'] / GIB:.2f} "
            f"GiB ({came['peak_memory_bytes'] / it['peak_memory_bytes']:.2f})."
        )
    if "decoding" in figures:
        lines += ["", f"The tuned model decoded on {args.decode_clips} of the test clips:", ""]
        lines += ["| | CPU s a clip | WER % | CER % |", "| --- | ---: | ---: | ---: |"]
        for name, it in figures["decoding"].items():
            row = f"{it['cpu_seconds_a_clip']:.2f} | {it['wer']:.1f} | {it['cer']:.1f}"
            lines.append(f"| {WAYS[name]} | {row} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
