"""Measures the speed and the memory of `corpus check` and `preprocess` by the number of clips.

    python bench/corpus_size.py FOLDER CLIPS quick
    python bench/corpus_size.py FOLDER CLIPS full
    PYTHONPATH=. python bench/corpus_size.py FOLDER CLIPS preprocess

Writes CLIPS WAV files of 0.4 s at 8 kHz, all different, unless FOLDER has them. Prints CPU seconds,
clips a CPU second and the peak memory.
"""

import csv
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from lorajob import preprocess
from lorajob.checking.run import Plan, check_clips
from lorajob.checking.table import open_table
from lorajob.corpora.selection import open_sources
from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.spec import build_spec

RATE, SECONDS = 8000, 0.4
WORDS = [
    "घर",
    "पानी",
    "दिन",
    "रात",
    "काम",
    "लोग",
    "बात",
    "समय",
    "साल",
    "हाथ",
    "आँख",
    "नाम",
    "देश",
    "गाँव",
    "पेड़",
    "नदी",
]


def write(folder: Path, clips: int) -> None:
    """Write the clips, a tenth of them for testing, 500 in a folder."""
    rng = np.random.default_rng(0)
    with (folder / "manifest.tsv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(["audio", "text", "split", "speaker"])
        for number in range(clips):
            name = f"{number // 500:04}/{number:06}.wav"
            if number % 500 == 0:
                (folder / name).parent.mkdir(exist_ok=True)
            sound = rng.uniform(-0.3, 0.3, int(RATE * SECONDS))
            soundfile.write(folder / name, sound, RATE, subtype="PCM_U8")
            text = " ".join(WORDS[it] for it in rng.integers(len(WORDS), size=4))
            split = "test" if number % 10 == 0 else "train"
            rows.writerow([name, f"{text} {number // 16}", split, f"s{number % 200}-{split}"])


def check_all(folder: Path, quick: bool) -> int:
    """Check the corpus; the number of clips."""
    spec = build_spec({"language": "hi", "corpus": str(folder)})
    plan = Plan(spec, open_sources(spec, [folder], "hi"), None, quick)
    with open_table() as table:
        return check_clips(plan, table).total.clips


def preprocess_all(folder: Path) -> int:
    """Run the first stage, with the tokenizer of a tiny model; the number of clips."""
    from tests.support.speech import make_model

    with tempfile.TemporaryDirectory() as work:
        base = make_model(Path(work, "model"), "hi")
        spec = build_spec({"language": "hi", "corpus": str(folder), "base_model": str(base)})
        Path(work, "out").mkdir()
        report = Report("preprocess", io.StringIO())
        done = preprocess.run(spec, JobDir(Path(work)), Path(work, "out"), 1, report)
    return done.train_clips + done.test_clips


def main() -> None:
    folder, clips, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if not (folder / "manifest.tsv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, clips)
    started, used = time.monotonic(), time.process_time()
    done = preprocess_all(folder) if kind == "preprocess" else check_all(folder, kind == "quick")
    wall, cpu = time.monotonic() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{done} clips, {cpu:.1f} CPU s, {wall:.1f} s, {clips / cpu:.0f} a CPU s")
    print(f"peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
