"""Plants 20 faults of each kind in 2,000 clips, and counts what `corpus check` finds.

    python bench/corpus_check.py FOLDER [CLIPS]

Prints, for each kind, how many were planted, how many were found by that name, and how many other
clips got the name. Then the time and the memory of the quick and of the full check.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
import soxr
from tests.support.planted import RATE, Planted, as_mp3, sentence, speech

from lorajob.checking import evidence
from lorajob.checking.run import Plan, check_clips
from lorajob.checking.table import open_table
from lorajob.corpora.selection import open_sources
from lorajob.languages import find_language
from lorajob.spec import build_spec

FAULTS = 20
Names = dict[str, set[str]]


def plant(made: Planted) -> Names:
    """Add FAULTS clips of each kind. Returns the ids by the finding's name."""
    rng, names = made.rng, Names()
    good = [row["audio"] for row in made.rows]

    def note(kind: str, name: str) -> None:
        names.setdefault(kind, set()).add(name)

    for number in range(FAULTS):
        a, b, c, d, e = good[number * 5 : number * 5 + 5]
        made.add("test", made.samples(a), made.text(a))
        note("same-recording", a)
        made.add("test", as_mp3(0.5 * made.samples(b)[int(rng.integers(0, 3000)) :]), made.text(b))
        note("same-recording", b)
        note("duplicate", made.add("train", made.samples(c), made.text(c)))
        near = as_mp3(0.7 * made.samples(d)[int(rng.integers(0, 3000)) :])
        note("near-duplicate", made.add("train", near, made.text(d)))
        other = made.add("train", made.samples(e), sentence(9, rng))
        note("duplicate", other)
        note("same-recording-other-text", other)
        note("same-recording-other-text", e)
        note("same-speaker", made.add("test", speaker=f"speaker {200 + number}"))
        text = made.rows[300 + number]["text"]
        note("same-sentence", made.add("test", speech(len(text) // 2, rng), text))
        half = soxr.resample(soxr.resample(speech(8, rng), RATE, 8000), 8000, RATE)
        note("narrow-band", made.add(samples=half, text=sentence(8, rng)))
        loud = np.clip(20 * speech(8, rng), -1, 1)
        note("clipped", made.add(samples=loud, text=sentence(8, rng)))
        clean = speech(8, rng)
        noisy = clean + 0.06 * rng.standard_normal(len(clean)).astype(np.float32)
        note("noisy", made.add(samples=noisy, text=sentence(8, rng)))
        edge = 3e-4 * rng.standard_normal(4 * RATE)
        note("long-silence", made.add(samples=np.concatenate([clean, edge]), text=sentence(8, rng)))
        brief = np.concatenate([speech(2, rng, 0)[:6000], np.zeros(12 * RATE)])
        note("mostly-silent", made.add(samples=brief, text="हम"))
        note("too-much-text", made.add(samples=speech(5, rng), text=sentence(30, rng)))
        note("too-little-text", made.add(samples=speech(30, rng), text=sentence(4, rng)))
        kinds = {
            "digits": "{} 25",
            "symbols": "{} + {}",
            "markup": "{} <laugh>",
            "invisible-characters": "{}\u200e",
            "other-script": "this is a text in English",
        }
        for kind, form in kinds.items():
            text = form.format(sentence(8, rng), sentence(2, rng))
            name = made.add(samples=speech(10, rng), text=text)
            note(kind, name)
            if kind == "markup":
                note("symbols", name)
        made.row(f"gone-{number}.wav", "कहाँ")
        note("not found", f"gone-{number}.wav")
        note("silent", made.add(samples=np.zeros(RATE, np.float32), text="हम"))
        note("too long, over 30 s", made.add(samples=speech(160, rng)))
        note("under 0.3 s", made.add(samples=speech(1, rng)[:1000]))
        note("text empty after normalising", made.add(text=" … "))
        cut = f"cut-{number}.wav"
        (made.folder / cut).write_bytes((made.folder / good[150 + number]).read_bytes()[:20000])
        made.row(cut, sentence(8, rng))
        note("truncated", cut)
        (made.folder / f"text-{number}.wav").write_text("no sound")
        made.row(f"text-{number}.wav", sentence(8, rng))
        note("not audio", f"text-{number}.wav")
    return names


def main() -> None:
    folder, clips = Path(sys.argv[1]), int((*sys.argv, "2000")[2])
    made = Planted(folder)
    made.good(clips - clips // 10)
    made.good(clips // 10, "test")
    names = plant(made)
    made.write()
    spec = build_spec({"language": "hi", "corpus": str(folder)})
    for quick in (True, False):
        started, used = time.monotonic(), time.process_time()
        plan = Plan(spec, open_sources(spec, [folder], "hi"), None, quick)
        with open_table() as table:
            report = check_clips(plan, table)
            wall, cpu = time.monotonic() - started, time.process_time() - used
            hours = report.total.hours
            # All clips of a finding, not only its examples.
            evidence.EXAMPLES = 1_000_000
            every = evidence.findings(table, find_language("hi"), quick)
        print(f"quick={quick}: {report.total.clips} clips, {hours:.2f} h, {wall:.1f} s")
        print(f"{cpu:.1f} CPU s")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
        found = {
            (it.says.rpartition(": ")[2] if it.name == "dropped" else it.name): {
                example.id for example in it.examples
            }
            for it in every
        }
        for kind in sorted(names.keys() | found.keys()):
            planted, seen = names.get(kind, set()), found.get(kind, set())
            print(f"{kind:32}{len(planted):4}{len(planted & seen):4}{len(seen - planted):4}")


if __name__ == "__main__":
    main()
