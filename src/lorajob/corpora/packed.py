"""Packs a corpus of files as one tar archive, with its table and audio, and opens it again.

    lorajob-corpus.jsonl   comes first: a line for each clip, in the corpus's order
    clips/00000000         the audio of each recording, numbered in that order, in its own format

Audio that is missing in the corpus is missing in the archive.
"""

import io
import json
import tarfile
from pathlib import Path
from typing import IO

from lorajob.corpora.archive import MAX_RECORDING_BYTES
from lorajob.corpora.clip import Corpus, Tick
from lorajob.corpora.entries import Entry, EntryList, by_recording
from lorajob.corpora.place import Place
from lorajob.errors import CorpusError

NAME = "packed corpus"
TABLE = "lorajob-corpus.jsonl"
CLIPS = "clips"


def pack_corpus(corpus: Corpus, target: IO[bytes]) -> None:
    """Write the archive. Equal corpora give equal bytes. Raises OSError if a file or disk fails."""
    entries = corpus.entries
    numbers = {
        source: number
        for number, source in enumerate(it for it, _ in by_recording(entries))
        if source
    }
    table = "".join(f"{json.dumps(_row(it, numbers))}\n" for it in entries).encode()
    sources = {entry.id: entry.source for entry in entries}
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, TABLE, len(table), io.BytesIO(table))
        written: set[str] = set()
        for clip in corpus.reader.read(entries):
            source = sources[clip.id]
            if not source or source in written:
                continue
            written.add(source)
            name = f"{CLIPS}/{numbers[source]:08d}"
            if isinstance(clip.audio, bytes):
                if clip.audio:
                    _add(tar, name, len(clip.audio), io.BytesIO(clip.audio))
            elif clip.audio.is_file():
                _add_file(tar, name, clip.audio)


def _row(entry: Entry, numbers: dict[str, int]) -> dict[str, object]:
    number = numbers.get(entry.source)
    row: dict[str, object] = {
        "id": entry.id,
        "source": "" if number is None else f"{number:08d}",
        "text": entry.text,
        "speaker": entry.speaker,
        "split": entry.split,
    }
    if entry.is_segment:
        row |= {"start": entry.start, "end": entry.end}
    if entry.has_slack:
        row |= {"start_slack": entry.start_slack, "end_slack": entry.end_slack}
    return row | ({"fault": entry.fault} if entry.fault else {})


def looks_like(place: Place) -> str | None:
    return None if place.has(TABLE) else f"no {TABLE}"


def check(place: Place, language: str) -> None:
    """Packed corpora were checked before they were packed."""


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """The corpus in an archive of `pack_corpus`. Raises CorpusError if it is damaged."""
    with place.open(TABLE) as file:
        try:
            entries = EntryList(Entry(**json.loads(line)) for line in file)
        except (ValueError, TypeError) as error:
            raise CorpusError(f"{place.path}: {TABLE} is damaged: {error}") from None
    return Corpus(entries, place.audio(CLIPS))


def _add_file(tar: tarfile.TarFile, name: str, path: Path) -> None:
    size = path.stat().st_size
    # Jobs refuse larger files.
    if size <= MAX_RECORDING_BYTES:
        with path.open("rb") as file:
            _add(tar, name, size, file)


def _add(tar: tarfile.TarFile, name: str, size: int, file: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, file)
