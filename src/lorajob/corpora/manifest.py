"""Reads manifests: tables of audio files and their transcripts."""

from collections.abc import Iterator
from pathlib import Path

from lorajob.corpora.clip import SPLIT_NAMES, TRAIN, Corpus, Entry, Tick
from lorajob.corpora.place import Place
from lorajob.corpora.spans import WHOLE, span_of
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

NAME = "manifest"
READERS = {".tsv": read_tsv, ".csv": read_csv, ".jsonl": read_jsonl}
AUDIO_COLUMNS = ("audio", "path", "file", "audio_path", "file_name", "audio_filepath")
NEMO_AUDIO = "audio_filepath"
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
SPLIT_COLUMNS = ("split",)
SPEAKER_COLUMNS = ("speaker", "client_id", "speaker_id")

_SUFFIXES = ", ".join(READERS)
_NAMES = tuple(f"{stem}{suffix}" for stem in ("manifest", "metadata") for suffix in READERS)


def looks_like(place: Place) -> str | None:
    if place.table:
        suffix = Path(place.table).suffix.lower()
        return None if suffix in READERS else f"{suffix or place.table} is not {_SUFFIXES}"
    return None if _table(place) else f"no manifest or metadata with {_SUFFIXES}"


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the corpus that a manifest lists.

    Audio paths are relative to the manifest's folder. Without a split, a clip is in "train".
    Raises CorpusError for missing columns, a line that cannot be read and an empty table.
    """
    table = _table(place)
    entries = []
    seen: dict[str, int] = {}
    for number, row in enumerate(_rows(place, table), start=1):
        audio = pick(row, AUDIO_COLUMNS, table)
        name = audio or f"row {number}"
        seen[name] = seen.get(name, 0) + 1
        try:
            (start, end), fault = span_of(row, NEMO_AUDIO in row), ""
        except ValueError as error:
            (start, end), fault = WHOLE, str(error)
        split = (pick_optional(row, SPLIT_COLUMNS) or TRAIN).strip().lower()
        entries.append(
            Entry(
                id=name if seen[name] == 1 else f"{name}#{seen[name]}",
                source=audio,
                text=pick(row, TEXT_COLUMNS, table),
                speaker=(pick_optional(row, SPEAKER_COLUMNS) or "").strip(),
                split=SPLIT_NAMES.get(split, split),
                start=start,
                end=end,
                fault=fault,
            )
        )
    if not entries:
        raise CorpusError(f"{place.path}: {table} lists no clips")
    return Corpus(tuple(entries), place.audio())


def check(place: Place, language: str) -> None:
    """Raise CorpusError unless the first row has an audio and a text column."""
    table = _table(place)
    row = next(_rows(place, table), None)
    if row is None:
        raise CorpusError(f"{place.path}: {table} lists no clips")
    pick(row, AUDIO_COLUMNS, table)
    pick(row, TEXT_COLUMNS, table)


def _table(place: Place) -> str:
    """The name of the table; "" if the folder has none."""
    return place.table or next((name for name in _NAMES if place.has(name)), "")


def _rows(place: Place, table: str) -> Iterator[Row]:
    with place.open(table) as file:
        yield from READERS[Path(table).suffix.lower()](text_lines(file, table), table)
