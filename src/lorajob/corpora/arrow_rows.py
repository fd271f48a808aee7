"""Rows of Arrow data, as Hugging Face's `datasets` writes it: audio in a column beside the text.

A value of the audio column is a file's bytes, a path, or both in {"bytes", "path"}.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from lorajob.corpora.archive import MAX_RECORDING_BYTES
from lorajob.corpora.clip import Clip, Tick
from lorajob.corpora.entries import Entry, EntryList
from lorajob.corpora.ids import Seen, unique
from lorajob.corpora.manifest import AUDIO_COLUMNS, SPEAKER_COLUMNS, SPLIT_COLUMNS, TEXT_COLUMNS
from lorajob.corpora.names import column, split_name
from lorajob.corpora.place import Place
from lorajob.corpora.spans import DURATION, WHOLE, span_of
from lorajob.corpora.tables import text_of
from lorajob.errors import ColumnError

BATCH_ROWS = 16
TEXTS = (*TEXT_COLUMNS, "raw_transcription", "normalized_text")


@dataclass(frozen=True)
class ArrowFile:
    """A file of rows. `open(columns)` yields batches; without columns it yields all."""

    name: str
    split: str
    folder: str  # in which paths of audio lie
    schema: Any  # pyarrow.Schema
    open: Callable[[Sequence[str] | None], AbstractContextManager[Iterator[Any]]]


@dataclass(frozen=True)
class Columns:
    """The names of the columns that hold a role; None if there is none."""

    audio: str
    text: str
    speaker: str | None
    split: str | None
    times: dict[str, str]  # start, end and duration, if the user mapped them

    @property
    def plain(self) -> list[str]:
        """The columns without audio."""
        found = [self.text, self.speaker, self.split, *self.times.values()]
        return [name for name in dict.fromkeys(found) if name]


def find_columns(place: Place, part: ArrowFile) -> Columns:
    """The columns of the roles, by their names or as mapped. Raises CorpusError without one."""
    names = {name.strip().lower(): name for name in part.schema.names}

    def pick(role: str, wanted: Sequence[str], needed: bool) -> str | None:
        found = next((names[name] for name in column(place, role, wanted) if name in names), None)
        if found is None and (needed or role in place.columns):
            tried = " or ".join(column(place, role, wanted))
            hint = f"; map one with --map {role}=NAME" if role not in place.columns else ""
            have = ", ".join(part.schema.names)
            raise ColumnError(f"{part.name}: no column {tried}; its columns: {have}{hint}")
        return found

    times = {role: pick(role, (), False) for role in ("start", "end", DURATION)}
    return Columns(
        audio=str(pick("audio", (*AUDIO_COLUMNS, *_audio_features(part.schema)), True)),
        text=str(pick("text", TEXTS, True)),
        speaker=pick("speaker", SPEAKER_COLUMNS, False),
        split=pick("split", SPLIT_COLUMNS, False),
        times={role: name for role, name in times.items() if name},
    )


def _audio_features(schema: Any) -> list[str]:
    """The columns of {"bytes", "path"}, whatever their name."""
    import pyarrow as pa

    found = [field for field in schema if pa.types.is_struct(field.type)]
    return [it.name.lower() for it in found if it.type.get_field_index("bytes") >= 0]


def read_entries(
    place: Place, parts: Sequence[ArrowFile], tick: Tick | None, most: int | None = None
) -> EntryList:
    """An entry for each row, at most `most`. Its source is the part's number and the row."""
    entries = EntryList()
    ids = Seen()
    for number, part in enumerate(parts):
        columns = find_columns(place, part)
        # The audio itself is not read: only the path beside it.
        path = _path_column(part.schema, columns.audio)
        row = 0
        with part.open([*columns.plain, *([path] if path else [])]) as batches:
            for batch in batches:
                for values in batch.to_pylist():
                    if tick:
                        tick()
                    if len(entries) == most:
                        return entries
                    entries.append(_entry(part, columns, values, f"{number}#{row}", ids))
                    row += 1
    return entries


def _path_column(schema: Any, audio: str) -> str | None:
    import pyarrow as pa

    kind = schema.field(audio).type
    if pa.types.is_struct(kind):
        return f"{audio}.path" if kind.get_field_index("path") >= 0 else None
    return audio if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _entry(
    part: ArrowFile,
    columns: Columns,
    values: Mapping[str, object],
    source: str,
    ids: Seen,
) -> Entry:
    audio = values.get(columns.audio)
    path = audio.get("path") if isinstance(audio, dict) else audio
    name = PurePosixPath(path).name if isinstance(path, str) and path else f"{part.name}#{source}"
    text = fault = ""
    start, end = WHOLE
    try:
        text = text_of(values.get(columns.text))
        times = {role: text_of(values.get(name)) for role, name in columns.times.items()}
        start, end = span_of(times)
    except ValueError as error:
        fault = str(error)
    own = values.get(columns.split) if columns.split else None
    speaker = values.get(columns.speaker) if columns.speaker else None
    return Entry(
        id=unique(ids, name),
        source=source,
        text=text,
        speaker="" if speaker is None else str(speaker),
        split=split_name(own) if isinstance(own, str) and own else part.split,
        start=start,
        end=end,
        fault=fault,
    )


@dataclass(frozen=True)
class ArrowAudio:
    """Audio in the rows of parts."""

    place: Place
    parts: Sequence[ArrowFile]

    def read(self, entries: Sequence[Entry]) -> Iterator[Clip]:
        parts, rows = array("q"), array("q")
        for entry in entries:
            part, row = map(int, entry.source.split("#"))
            parts.append(part)
            rows.append(row)
        order = np.lexsort((np.frombuffer(rows, np.int64), np.frombuffer(parts, np.int64)))
        for part, group in groupby(order.tolist(), key=parts.__getitem__):
            wanted = ((rows[number], entries[number]) for number in group)
            yield from self._read_part(self.parts[part], wanted)

    def _read_part(self, part: ArrowFile, wanted: Iterator[tuple[int, Entry]]) -> Iterator[Clip]:
        """The clips of rows that are sorted."""
        audio = find_columns(self.place, part).audio
        first, found = 0, next(wanted, None)
        with part.open([audio]) as batches:
            for batch in batches:
                column = batch.column(0)
                while found is not None and found[0] < first + batch.num_rows:
                    yield self._clip(part, found[1], column[found[0] - first].as_py())
                    found = next(wanted, None)
                if found is None:
                    break
                first += batch.num_rows

    def _clip(self, part: ArrowFile, entry: Entry, value: Any) -> Clip:
        data = value.get("bytes") if isinstance(value, dict) else value
        path = value.get("path") if isinstance(value, dict) else value
        if isinstance(data, bytes):
            return Clip.of(entry, data if len(data) <= MAX_RECORDING_BYTES else b"")
        if not isinstance(path, str):
            return Clip.of(entry, b"")
        # Rows may name files instead of holding their bytes.
        named = Entry(entry.id, path, entry.text, entry.speaker, entry.split)
        (clip,) = self.place.audio(part.folder).read([named])
        return Clip.of(entry, clip.audio)

    def stamp(self, entry: Entry) -> str:
        part = self.parts[int(entry.source.partition("#")[0])]
        return f"{self.place.stamp(part.name)} {entry.source}"
