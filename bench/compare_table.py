"""The table of bench/compare.py: costs, error rates, and their paired differences."""

import argparse
import shlex
import time
from typing import Any

from real_speech import GIB, machine

from lorajob.speech.scoring import FEWEST_SPEAKERS, METRICS, difference, rate_of_set

Found = dict[str, list[dict[str, Any]]]


def table(args: argparse.Namespace, corpus: str, found: Found) -> str:
    """A section for RESULTS.md. `found` has the figures of each side, one for each seed."""
    ours = found["ours"][0]
    lines = [
        f"\n## {args.lang}, {args.base_model}, side by side, {time.strftime('%Y-%m-%d')}\n",
        f"- Machine: {machine()}",
        f"- Command: `{_command(args, corpus)}`",
        f"- Clips: {ours['train_clips']} to train on, {ours['test_clips']} to test; `ours` took "
        f"{ours['steps']} optimizer steps",
        f"- Rates by faster-whisper's defaults, {args.compute_type}; in brackets the difference to "
        "`ours` and its 95 % interval, paired\n",
        "| | train, CPU s | times ours | prepare, CPU s | data, MB | WER % | CER % | long WER % "
        "| long CER % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    mine = _mean(found["ours"], "train")
    for side, runs in found.items():
        taken = _mean(runs, "train")
        cells = [side, f"{taken:.1f}", f"{taken / mine:.2f}"]
        cells.append(f"{runs[0]['prepare']:.1f}" if "prepare" in runs[0] else "")
        cells.append(f"{runs[0]['bytes'] / 1e6:.1f}" if "bytes" in runs[0] else "")
        cells += [
            _rate(args.lang, found, side, kind, metric)
            for kind in ("single", "long")
            for metric in METRICS
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if it := ours["forecast"]:
        came = it["measured"]
        lines += ["", ""]
        lines[-1] = (
            f"The forecast of the training was {it['eta_seconds']:.0f} s and "
            f"{it['peak_memory_bytes'] / GIB:.2f} GiB; it took {came['seconds']:.0f} s (ratio "
            f"{came['seconds'] / it['eta_seconds']:.2f}) and {came['peak_memory_bytes'] / GIB:.2f} "
            f"GiB ({came['peak_memory_bytes'] / it['peak_memory_bytes']:.2f})."
        )
    return "\n".join(lines) + "\n"


def _mean(runs: list[dict[str, Any]], name: str) -> float:
    return float(sum(run[name] for run in runs) / len(runs))


def _rate(lang: str, found: Found, side: str, kind: str, metric: Any) -> str:
    """A rate over all seeds, and its difference to that of `ours`."""

    def column(name: str, place: int) -> list[str]:
        return [str(pair[place]) for run in found[name] for pair in run[kind]]

    if not found[side][0][kind]:
        return ""
    said, own, theirs = column(side, 0), column("ours", 1), column(side, 1)
    rate = rate_of_set(said, theirs, metric, lang)
    if side == "ours":
        return f"{rate:.1f}"
    # The trainings of several seeds are drawn together: a clip is one group, or a speaker.
    groups: list[str] = [str(place) for place in range(len(found[side][0][kind]))]
    speakers: list[str] = found[side][0]["speakers"]
    if kind == "single" and len({*speakers} - {""}) >= FEWEST_SPEAKERS:
        groups = [name or place for name, place in zip(speakers, groups, strict=True)]
    fewer = difference(said, theirs, own, metric, language=lang, speakers=groups * len(found[side]))
    low, high = fewer.interval
    return f"{rate:.1f} ({fewer.points:+.1f}: {low:+.1f} to {high:+.1f})"


def _command(args: argparse.Namespace, corpus: str) -> str:
    words = ["python", "bench/compare.py", "--corpus", corpus, "--lang", args.lang]
    words += ["--base-model", args.base_model, "--epochs", str(args.epochs)]
    words += ["--sides", *args.sides]
    words += ["--earlier", args.earlier.name] if args.earlier else []
    words += [word for it in args.variant for word in ("--variant", it)]
    words += ["--seeds", str(args.seeds)] if args.seeds > 1 else []
    for name, value in (
        ("--limit-train", args.limit_train),
        ("--limit-test", args.limit_test),
        ("--score-clips", args.score_clips),
    ):
        words += [name, str(value)] if value else []
    words += [word for line in args.sets for word in ("--set", line)]
    return shlex.join([*words, "--compute-type", args.compute_type])
