"""A corpus of made-up speech in which faults are planted: syllables of noise, and their text."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from lorajob.speech.audio import load_audio

RATE = 16_000
SYLLABLE = RATE // 5
SYLLABLES = [f"{consonant}{vowel}" for consonant in "कगचजटडतदनपबमयरलवसह" for vowel in "ािीुूेैोौ"]


def speech(syllables: int, rng: np.random.Generator, noise: float = 3e-4) -> np.ndarray:
    """Syllables of 0.2 s with two formants each, a short pause behind some, and room noise."""
    parts = [np.zeros(rng.integers(1600, 4800))]
    hertz = np.fft.rfftfreq(SYLLABLE, 1 / RATE)
    envelope = np.hanning(SYLLABLE) ** 0.5
    for _ in range(syllables):
        shape = sum(
            level * np.exp(-np.square((hertz - centre) / width))
            for level, centre, width in (
                (1.0, rng.uniform(250, 900), 120),
                (0.5, rng.uniform(900, 3000), 200),
                (0.06, rng.uniform(4500, 7000), 900),
            )
        )
        phases = np.exp(2j * np.pi * rng.random(len(hertz)))
        sound = np.fft.irfft(shape * phases, SYLLABLE) * envelope
        parts.append(0.25 * sound / np.abs(sound).max())
        if rng.random() < 0.3:
            parts.append(np.zeros(rng.integers(400, 1600)))
    parts.append(np.zeros(rng.integers(1600, 4800)))
    whole = np.concatenate(parts)
    return (whole + noise * rng.standard_normal(len(whole))).astype(np.float32)


def sentence(syllables: int, rng: np.random.Generator) -> str:
    """A text of so many syllables, in words of two."""
    chosen = [SYLLABLES[number] for number in rng.integers(len(SYLLABLES), size=syllables)]
    pairs = ["".join(chosen[at : at + 2]) for at in range(0, syllables, 2)]
    return " ".join(pairs)


@dataclass
class Planted:
    """Rows of a manifest, written with `write`. Each clip has its own speaker and sentence."""

    folder: Path
    seed: int = 0
    rows: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)

    def good(self, count: int, split: str = "train") -> None:
        for _ in range(count):
            self.add(split)

    def add(
        self,
        split: str = "train",
        samples: np.ndarray | None = None,
        text: str | None = None,
        speaker: str = "",
        kind: str = "WAV",
    ) -> str:
        """Add a clip and return its file's name."""
        length = int(self.rng.integers(6, 13))
        number = len(self.rows)
        name = f"{number:05d}.{kind.lower()}"
        if samples is None:
            samples = speech(length, self.rng)
        soundfile.write(self.folder / name, samples, RATE, format=kind)
        self.row(name, text or sentence(length, self.rng), split, speaker)
        return name

    def row(self, name: str, text: str, split: str = "train", speaker: str = "") -> None:
        speaker = speaker or f"speaker {len(self.rows)}"
        self.rows.append({"audio": name, "text": text, "split": split, "speaker": speaker})

    def samples(self, name: str) -> np.ndarray:
        return soundfile.read(self.folder / name, dtype="float32")[0]

    def text(self, name: str) -> str:
        return next(row["text"] for row in self.rows if row["audio"] == name)

    def write(self) -> Path:
        path = self.folder / "manifest.jsonl"
        lines = [json.dumps(row, ensure_ascii=False) for row in self.rows]
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path


def as_mp3(samples: np.ndarray) -> np.ndarray:
    """What is left of samples after a lossy codec."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="MP3")
    # libsndfile cannot read every MP3 that it writes.
    return load_audio(file.getvalue(), 60)
