"""A corpus of synthetic speech in the format of a Common Voice release.

`python -m lorajob.demo.speech FOLDER` writes the Hindi demo corpus to FOLDER.
"""

import argparse
import csv
import gzip
import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from lorajob.demo.espeak import VOICES, Speaker, Voice
from lorajob.demo.sentences import hindi_sentences
from lorajob.errors import UsageError

RELEASE = "cv-corpus-demo"
SAMPLE_RATE = 48_000  # Hz, as in Common Voice's clips
COLUMNS = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "variant",
    "locale",
    "segment",
]
SPLITS = ("train", "dev", "test")


def demo_corpus(folder: Path) -> Path:
    """The tarball of the Hindi demo corpus in `folder`. It is made if it is missing.

    The unpacked release stays beside the tarball.
    """
    tarball = folder / f"{RELEASE}-hi.tar.gz"
    if not tarball.is_file() or not (folder / RELEASE / "hi" / "clips").is_dir():
        pack_release(speak_corpus(folder))
    return tarball


def speak_corpus(
    folder: Path,
    language: str = "hi",
    train: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
    dev: Sequence[str] | None = None,
    voices: Sequence[Voice] = VOICES,
) -> Path:
    """Synthesise sentences into FOLDER/cv-corpus-demo/LANGUAGE, and return that folder.

    The `voices` take turns. If a list of sentences is None, the demo's own sentences are used,
    which are Hindi. The same arguments give the same bytes.

    Raises UsageError if sentences are missing or in two splits or eSpeak NG lacks a voice,
    MissingExtraError if the demo extra is not installed.
    """
    sentences = _choose(language, {"train": train, "dev": dev, "test": test})
    release = folder / RELEASE / language
    clips = release / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, str]]] = {}
    durations: list[tuple[str, int]] = []
    with Speaker() as speaker:
        for split in SPLITS:
            rows[split] = []
            for turn, sentence in enumerate(sentences[split]):
                voice = voices[turn % len(voices)]
                name = f"common_voice_{language}_{len(durations) + 1:08d}.mp3"
                samples = speaker.say(sentence, language, voice)
                durations.append((name, _write_clip(clips / name, samples, speaker.sample_rate)))
                rows[split].append(_row(name, sentence, language, voice))
    _write_tables(release, rows, durations)
    return release


def pack_release(release: Path) -> Path:
    """Pack RELEASE/LANGUAGE as `RELEASE-LANGUAGE.tar.gz` beside RELEASE. Returns the tarball.

    The names are those of a real release. Times and owners are left out, so equal folders give
    equal tarballs.
    """
    root = release.parent
    tarball = root.parent / f"{root.name}-{release.name}.tar.gz"
    temporary = tarball.with_name(f".{tarball.name}")
    with (
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in [root, release, *sorted(release.rglob("*"))]:
            name = path.relative_to(root.parent).as_posix()
            tar.add(path, name, recursive=False, filter=_anonymous)
    temporary.replace(tarball)
    return tarball


def _choose(language: str, given: Mapping[str, Sequence[str] | None]) -> dict[str, Sequence[str]]:
    known = hindi_sentences() if language == "hi" else {"dev": []}
    chosen: dict[str, Sequence[str]] = {}
    for split, sentences in given.items():
        if sentences is None and split not in known:
            raise UsageError(f"{split}: sentences are needed; the demo's own are in Hindi (hi)")
        chosen[split] = known[split] if sentences is None else sentences
    everything = [sentence for split in SPLITS for sentence in set(chosen[split])]
    if len(set(everything)) < len(everything):
        twice = next(text for text in everything if everything.count(text) > 1)
        raise UsageError(f"sentences: {twice!r} is in two splits; each may be in one")
    return chosen


def _write_clip(path: Path, samples: npt.NDArray[np.float32], sample_rate: int) -> int:
    """Write one mp3. Returns its length in milliseconds."""
    resampled = soxr.resample(samples, sample_rate, SAMPLE_RATE)
    soundfile.write(path, resampled, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III")
    return round(1000 * len(resampled) / SAMPLE_RATE)


def _row(name: str, sentence: str, language: str, voice: Voice) -> dict[str, str]:
    return dict.fromkeys(COLUMNS, "") | {
        "client_id": hashlib.sha512(repr(voice).encode()).hexdigest(),
        "path": name,
        "sentence_id": hashlib.sha256(sentence.encode()).hexdigest(),
        "sentence": sentence,
        "up_votes": "2",
        "down_votes": "0",
        "locale": language,
    }


def _write_tables(
    release: Path, rows: Mapping[str, list[dict[str, str]]], durations: list[tuple[str, int]]
) -> None:
    tables = dict(rows)
    tables["validated"] = [row for split in SPLITS for row in rows[split]]
    tables |= {"other": [], "invalidated": []}
    for name, lines in tables.items():
        _write_table(release / f"{name}.tsv", COLUMNS, [list(row.values()) for row in lines])
    _write_table(release / "clip_durations.tsv", ["clip", "duration[ms]"], durations)


def _write_table(path: Path, header: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(
            file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        writer.writerow(header)
        writer.writerows(lines)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = 0
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lorajob.demo.speech", description="Speak the Hindi demo corpus."
    )
    parser.add_argument("folder", type=Path, help="folder for cv-corpus-demo-hi.tar.gz")
    print(demo_corpus(parser.parse_args(argv).folder))


if __name__ == "__main__":
    main()
