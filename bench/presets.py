"""Measure the training cost and the error rates of lorajob's presets on one corpus.

    python bench/presets.py --corpus cv-corpus-ml.tar.gz --lang ml --results bench/RESULTS.md

Each preset trains for its own number of epochs; `--epochs` sets the same number for all. The stages
run without a service.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compare import of_job, take_stage
from real_speech import GIB, machine

from lorajob.job.jobdir import JobDir, write_json
from lorajob.spec import PRESETS, JobSpec, build_spec
from lorajob.whisper.base_model import local_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="release or manifest")
    parser.add_argument("--lang", default="hi", help="code of the language (default: hi)")
    parser.add_argument("--base-model", default="demo/whisper-base", help="as for submit")
    parser.add_argument(
        "--epochs", type=int, help="epochs of all presets (default: each preset's own)"
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["fast", "default"])
    parser.add_argument("--limit-train", type=int, help="use so many of the training clips")
    parser.add_argument("--limit-test", type=int, help="use so many of the test clips")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--results", type=Path, help="append a table here, such as RESULTS.md")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="lorajob-presets-") as name:
        os.environ["LORAJOB_HOME"] = str(Path(name, "home"))
        for preset in args.presets:
            job = JobDir(Path(name, preset))
            found[preset] = run(job, preset, args) | _of_training(job)
    section = _section(found, args)
    if args.json:
        write_json(args.json, found)
    if args.results:
        with args.results.open("a", encoding="utf-8") as file:
            file.write(section)
    print(section)
    return 0


def run(job: JobDir, preset: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run the first three stages. Returns their CPU seconds, sizes and error rates."""
    corpus = str(args.corpus.resolve())
    values = {"language": args.lang, "corpus": corpus, "base_model": args.base_model}
    sets = [f"train.epochs={args.epochs}"] if args.epochs else []
    sets += [f"preprocess.max_train_clips={args.limit_train}"] if args.limit_train else []
    sets += [f"preprocess.max_test_clips={args.limit_test}"] if args.limit_test else []
    spec = build_spec(values, preset, [*sets, *args.sets])
    write_json(job.spec_path, spec.model_dump(mode="json"))
    local_model(spec.base_model)  # converts the model once, before the measurements
    took: dict[str, Any] = {}
    for stage in ("preprocess", "train", "evaluate"):
        take_stage(job, stage, took, stage)
    scores = job.result("evaluate")
    assert scores is not None and scores.base is not None and scores.tuned is not None
    took |= {"wer": scores.tuned.wer, "cer": scores.tuned.cer}
    return took | of_job(job) | {"base": scores.base.model_dump()}


def _of_training(job: JobDir) -> dict[str, Any]:
    """Figures of a training, from its files."""
    folder = job.stage_dir("train")
    found = job.result("train")
    result = {} if found is None else found.as_json()
    spec = JobSpec.load(job.spec_path)
    lines = (folder / "history.jsonl").read_text("utf-8").splitlines()
    return {
        "parameters": result["trainable_parameters"],
        "adapter_bytes": (folder / "adapter" / "adapter_model.safetensors").stat().st_size,
        "peak_bytes": result["peak_memory_bytes"],
        "steps": len(lines),
        "epochs": spec.train.epochs,
    }


def _section(found: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    words = ["python", "bench/presets.py", "--corpus", args.corpus.name, "--lang", args.lang]
    words += ["--epochs", str(args.epochs)] if args.epochs else []
    words += ["--presets", *args.presets]
    for name, value in (("--limit-train", args.limit_train), ("--limit-test", args.limit_test)):
        words += [name, str(value)] if value else []
    words += [word for line in args.sets for word in ("--set", line)]
    first = next(iter(found.values()))
    lines = [
        f"\n## {args.lang}, {args.base_model}, the presets, {time.strftime('%Y-%m-%d')}\n",
        f"- Machine: {machine()}",
        f"- Command: `{shlex.join(words)}`",
        f"- Clips: {first['train_clips']} to train on, {first['test_clips']} to test; base model "
        f"WER {first['base']['wer']:.1f}, CER {first['base']['cer']:.1f}\n",
        "| | epochs | trained | adapter MB | CPU s a clip and epoch | peak GiB | WER % | CER % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for preset, it in found.items():
        cells = [
            str(it["epochs"]),
            f"{it['parameters'] / 1e6:.2f} M",
            f"{it['adapter_bytes'] / 1e6:.1f}",
            f"{it['train'] / it['train_clips'] / it['epochs']:.2f}",
            f"{it['peak_bytes'] / GIB:.2f}",
            f"{it['wer']:.1f}",
            f"{it['cer']:.1f}",
        ]
        lines.append(f"| {preset} | {' | '.join(cells)} |")
    lines += ["", "Forecast and measured values:", ""]
    lines += ["| | steps, s | measured | ratio | peak GiB | measured | ratio |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for preset, it in found.items():
        if it["forecast"] is None:  # the training was too short
            continue
        cells = []
        for forecast, measured, unit in (
            ("eta_seconds", "seconds", 1),
            ("peak_memory_bytes", "peak_memory_bytes", GIB),
        ):
            a, b = it["forecast"][forecast] / unit, it["forecast"]["measured"][measured] / unit
            cells += [f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}"]
        lines.append(f"| {preset} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
