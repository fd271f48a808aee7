"""Reads manifests: tables of audio files and their transcripts."""

from collections.abc import Iterator
from pathlib import Path

from lorajob.corpora.clip import SPLIT_NAMES, TRAIN, Corpus, Entry, FileReader
from lorajob.corpora.tables import (
    Row,
    pick,
    pick_optional,
    read_csv,
    read_jsonl,
    read_tsv,
    text_lines,
)
from lorajob.errors import CorpusError

READERS = {".tsv": read_tsv, ".csv": read_csv, ".jsonl": read_jsonl}
AUDIO_COLUMNS = ("audio", "path", "file", "audio_path", "file_name", "audio_filepath")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
SPLIT_COLUMNS = ("split",)
SPEAKER_COLUMNS = ("speaker", "client_id", "speaker_id")


def open_manifest(path: Path) -> Corpus:
    """Open the corpus that a manifest lists.

    Audio paths are relative to the manifest's folder. Without a split, a clip is in "train".
    Raises CorpusError for missing columns, a line that cannot be read and an empty table.
    """
    entries = []
    seen: dict[str, int] = {}
    for number, row in enumerate(_rows(path), start=1):
        audio = pick(row, AUDIO_COLUMNS, path.name)
        name = audio or f"row {number}"
        seen[name] = seen.get(name, 0) + 1
        split = (pick_optional(row, SPLIT_COLUMNS) or TRAIN).strip().lower()
        entries.append(
            Entry(
                id=name if seen[name] == 1 else f"{name}#{seen[name]}",
                source=audio,
                text=pick(row, TEXT_COLUMNS, path.name),
                speaker=(pick_optional(row, SPEAKER_COLUMNS) or "").strip(),
                split=SPLIT_NAMES.get(split, split),
            )
        )
    if not entries:
        raise CorpusError(f"{path}: lists no clips")
    return Corpus(tuple(entries), FileReader(path.parent))


def check_manifest(path: Path) -> None:
    """Raise CorpusError unless the first row has an audio and a text column."""
    row = next(_rows(path), None)
    if row is None:
        raise CorpusError(f"{path}: lists no clips")
    pick(row, AUDIO_COLUMNS, path.name)
    pick(row, TEXT_COLUMNS, path.name)


def _rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from READERS[path.suffix.lower()](text_lines(file, path.name), path.name)
