"""Score each form of an exported model by the code of its model card, and compare with the card.

    lorajob export JOB BUNDLE --check 25
    python bench/exported.py BUNDLE JOB_FOLDER [--out bench/RESULTS.md]

The examples run as they stand in README.md: what comes before the line with `audio.wav` once, the
rest for each test clip that the card states figures of. The base model is found in a copy of the
Hub's cache, because the adapter names it on the Hub. Differences come from sampling where a
transcript trips one of Whisper's thresholds.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2
import jiwer
import numpy as np
import soundfile

from lorajob.cores import describe_machine
from lorajob.job.jobdir import JobDir
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.text import normalise
from lorajob.whisper.identity import base_of

EXAMPLE = re.compile(r"### ([^\n]+)\n\n```python\n(.*?)```", re.DOTALL)
CLAIM = re.compile(r"^\| (.+?) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)
SOUND = "audio.wav"


@dataclass(frozen=True)
class Row:
    """One library: the card's WER and ours, in percent, on the same clips."""

    library: str
    clips: int
    claimed: float
    measured: float
    seconds: float

    def cells(self) -> list[str]:
        rates = (self.claimed, self.measured, self.measured - self.claimed, self.seconds)
        return [self.library, str(self.clips), *(f"{it:.2f}" for it in rates)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("job", type=Path)
    parser.add_argument("--out", type=Path, help="append a section to this file")
    arguments = parser.parse_args()
    card = (arguments.bundle / "README.md").read_text("utf-8")
    job = JobDir(arguments.job.resolve())
    rows = []
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        bundle = Path(shutil.copytree(arguments.bundle, Path(scratch, "bundle")))
        _hub_cache(job, json.loads((bundle / "bundle.json").read_bytes()), Path(scratch, "hub"))
        stack.enter_context(contextlib.chdir(bundle))
        codes = dict(EXAMPLE.findall(card))
        for library, clips, wer, _ in CLAIM.findall(card):
            rows.append(_measure(job, library, codes[library], int(clips), float(wer)))
            print("|", " | ".join(rows[-1].cells()), "|", file=sys.stderr, flush=True)
    section = _section(rows)
    print(section)
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(section)


def _hub_cache(job: JobDir, index: dict[str, Any], cache: Path) -> None:
    """Make the base model known under its name on the Hub. Must come before the examples."""
    from huggingface_hub import constants

    commit = index["base_commit"] or "0" * 40
    root = cache / f"models--{index['base_model'].replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    shutil.copytree(base_of(JobSpec.load(job.spec_path), job).folder, root / "snapshots" / commit)
    constants.HF_HUB_CACHE = str(cache)
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"


def _measure(job: JobDir, library: str, code: str, clips: int, claimed: float) -> Row:
    lines = code.splitlines()
    first = next(place for place, line in enumerate(lines) if SOUND in line)
    names: dict[str, Any] = {}
    exec("\n".join(lines[:first]), names)
    use = compile("\n".join(lines[first:]), f"example of {library}", "exec")
    # As `export --check` does, so that what is sampled is the same.
    ctranslate2.set_random_seed(0)
    said, heard, started = [], [], time.monotonic()
    for text, sound in _clips(job, clips):
        soundfile.write(SOUND, sound, 16_000)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(use, names)
        said.append(normalise(text, ""))
        heard.append(normalise(printed.getvalue(), ""))
    seconds = (time.monotonic() - started) / clips
    return Row(library, clips, claimed, 100 * jiwer.wer(said, heard), seconds)


def _clips(job: JobDir, count: int) -> Iterator[tuple[str, np.ndarray]]:
    store = ClipStore(job.stage_dir("preprocess") / "test")
    for place in np.linspace(0, len(store) - 1, count).round().astype(int).tolist():
        yield store.texts[place], store.audio(place)


def _section(rows: list[Row]) -> str:
    heads = ("library", "clips", "the card's WER %", "measured WER %", "difference", "s a clip")
    table = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    table += [f"| {' | '.join(row.cells())} |" for row in rows]
    head = f"\n## An exported model in each library, {time.strftime('%Y-%m-%d')}\n"
    machine = f"- Machine: {describe_machine()}, beside other programs"
    command = f"- Command: `lorajob export JOB BUNDLE --check {rows[0].clips}`, then "
    return "\n".join(
        [head, machine, f"{command}`python bench/exported.py BUNDLE JOB_FOLDER`", "", *table, ""]
    )


if __name__ == "__main__":
    main()
