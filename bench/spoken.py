"""Write a Hindi corpus of synthetic speech whose speakers are disjoint between its splits.

    python bench/spoken.py FOLDER

The sentences are those of the demo: 240 to train on, 40 to test. They are spoken by sixteen
speakers (voice, speed and pitch of eSpeak NG), four of whom are in the test split alone. Prints the
path of the manifest.
"""

import argparse
import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile

from lorajob.demo.espeak import Speaker, Voice
from lorajob.demo.sentences import hindi_sentences

TRAINED = ("m1", "f2", "m3", "f4", "m2", "f1")
TESTED = ("m7", "f5")
SPEAKERS_A_VOICE = 2


def speakers(variants: Sequence[str]) -> list[Voice]:
    """Two speakers of each voice. They are the same in each call."""
    rng = random.Random(0)
    return [
        Voice(variant, rng.randint(130, 210), rng.randint(25, 75), rng.randint(30, 70))
        for _ in range(SPEAKERS_A_VOICE)
        for variant in variants
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    given = hindi_sentences()
    splits = {
        "train": ([*given["train"], *given["dev"]], speakers(TRAINED)),
        "test": (given["test"], speakers(TESTED)),
    }
    manifest = folder / "manifest.tsv"
    with Speaker() as speaker, manifest.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(["audio", "text", "speaker", "split"])
        for split, (sentences, voices) in splits.items():
            for number, sentence in enumerate(sentences):
                turn = number % len(voices)
                name = f"{split}-{number:03}.flac"
                samples = speaker.say(sentence, "hi", voices[turn])
                soundfile.write(folder / name, samples, speaker.sample_rate)
                rows.writerow([name, sentence, f"{split}-{turn}", split])
    print(manifest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
