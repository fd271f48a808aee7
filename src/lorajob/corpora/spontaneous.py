"""Reads Common Voice's spontaneous speech.

    sps-corpus-3.0-2026-03-09-hi/ss-corpus-hi.tsv
    sps-corpus-3.0-2026-03-09-hi/audios/spontaneous-speech-hi-12345.mp3

The columns are audio_file, transcription, client_id and split, besides others. Clips in none of
train, dev and test are in the split `other`. If no clip is in any of them, all are in train. Clips
that were not transcribed yet are dropped, because their text is empty.
"""

import re
from pathlib import PurePosixPath

from lorajob.corpora.archive import MAX_AUDIO_BYTES
from lorajob.corpora.clip import SPLITS, TRAIN, Corpus, Tick
from lorajob.corpora.entries import Entry, EntryList
from lorajob.corpora.ids import Seen, unique
from lorajob.corpora.names import column, is_audio, split_name
from lorajob.corpora.place import Place
from lorajob.corpora.tables import faulty_entry, pick, pick_optional, read_tsv, text_lines
from lorajob.errors import CorpusError, UsageError
from lorajob.languages import is_locale, is_locale_of

NAME = "Common Voice spontaneous speech"
SOUND = ("audios", "clips", "audio")
_TABLE = re.compile(r"ss-corpus-(?P<locale>[A-Za-z-]+)\.tsv")


def looks_like(place: Place) -> str | None:
    return None if _tables(place) else "no ss-corpus-LANGUAGE.tsv"


def check(place: Place, language: str) -> None:
    """Raise UsageError if the release is of another language, CorpusError for missing columns."""
    table = _table(place, language)
    with place.open(table) as file:
        rows = (row for row in read_tsv(text_lines(file, table), table) if not row.fault)
        row = next(rows, None)
    if row is None:
        raise CorpusError(f"{place.path}: {table} lists no clips")
    pick(row, ("audio_file",), table)
    pick(row, column(place, "text", ("transcription",)), table)


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the release. Raises as `check` does."""
    table = _table(place, language)
    folder = next((name for name in SOUND if name in place.folders()), SOUND[0])
    entries = EntryList()
    ids = Seen()
    with place.open(table) as file:
        for row in read_tsv(text_lines(file, table), table):
            if tick:
                tick()
            if row.fault:
                entries.append(faulty_entry(row, table, TRAIN))
                continue
            name = PurePosixPath(pick(row, ("audio_file",), table)).name
            if name and not is_audio(name):
                name += ".mp3"
            entries.append(
                Entry(
                    id=unique(ids, name or f"row {len(entries) + 1}"),
                    source=name,
                    text=pick(row, column(place, "text", ("transcription",)), table),
                    speaker=pick_optional(row, ("client_id",)) or "",
                    split=split_name(pick_optional(row, ("split",)) or "") or "other",
                )
            )
    if not any(entry.split in SPLITS for entry in entries if not entry.fault):
        entries = EntryList(map(_in_train, entries))
    return Corpus(entries, place.audio(folder, MAX_AUDIO_BYTES))


def _in_train(entry: Entry) -> Entry:
    return Entry(entry.id, entry.source, entry.text, entry.speaker, TRAIN)


def _tables(place: Place) -> list[str]:
    names = [place.table] if place.table else place.files()
    return [name for name in names if _TABLE.fullmatch(name)]


def _table(place: Place, language: str) -> str:
    found = _tables(place)
    for name in found:
        match = _TABLE.fullmatch(name)
        if match and (not is_locale(match["locale"]) or is_locale_of(match["locale"], language)):
            return name
    names = ", ".join(found)
    raise UsageError(f"corpus: {place.path} has {names}, but the job's language is {language}")
