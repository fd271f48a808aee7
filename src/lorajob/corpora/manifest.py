"""Reads manifests: tables of audio files and their transcripts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path

from lorajob.corpora.clip import SPLITS, TRAIN, Corpus, Tick
from lorajob.corpora.entries import Entry, EntryList
from lorajob.corpora.ids import Seen, unique
from lorajob.corpora.names import (
    column,
    is_audio,
    split_name,
    split_of,
    split_of_folders,
    stem,
)
from lorajob.corpora.place import Place
from lorajob.corpora.spans import DURATION, WHOLE, is_time, seconds, span_of, stated_seconds
from lorajob.corpora.tables import (
    NO_FIELD,
    Row,
    faulty_entry,
    pick,
    pick_optional,
    read_csv,
    read_jsonl,
    read_tsv,
    text_lines,
)
from lorajob.corpora.timed import LONGEST_SECONDS, TimedText, cut_long, parts_of
from lorajob.corpora.trees import join
from lorajob.errors import ColumnError, CorpusError

NAME = "manifest"
TABLES = (".tsv", ".csv", ".jsonl")
LISTS = (".txt", ".lst", ".list", ".psv")  # tables, if a user names such a file
AUDIO_COLUMNS = (
    *("audio", "path", "file", "audio_path", "file_name", "audio_filepath", "filename"),
    *("audio_file", "file_path", "filepath", "wav", "wav_path", "wav_filename"),
)
NEMO_AUDIO = "audio_filepath"
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "utterance")
SPLIT_COLUMNS = ("split",)
SUBSET_COLUMNS = ("subset", "partition", "set", "fold")  # splits, if they name one of ours
SPEAKER_COLUMNS = ("speaker", "client_id", "speaker_id")

_SUFFIXES = ", ".join(TABLES)
_NAMES = tuple(f"{stem}{suffix}" for stem in ("manifest", "metadata") for suffix in TABLES)


def looks_like(place: Place) -> str | None:
    if place.table:
        suffix = Path(place.table).suffix.lower()
        if suffix in LISTS:
            return _no_list(place, place.table)
        return None if suffix in TABLES else f"{suffix or place.table} is not {_SUFFIXES}"
    return None if _tables(place) else f"no manifest, metadata or train with {_SUFFIXES}"


def _no_list(place: Place, table: str) -> str | None:
    """Why a text file is no table of clips; None if it is one."""
    row = next(_rows(place, table), None)
    if row is not None and not {*AUDIO_COLUMNS}.isdisjoint(row):
        return None
    return f"{table} has no header with audio and text, nor rows of a file and a text"


def check(place: Place, language: str) -> None:
    """Raise CorpusError unless the first row has an audio and a text column."""
    for table, _ in _tables(place):
        faulty = None
        for row in _rows(place, table):
            if not row.fault:
                break
            faulty = row if faulty is None else faulty
        else:
            why = f": line {faulty.line} has {faulty.fault}" if faulty is not None else ""
            raise CorpusError(f"{place.path}: {table} lists no clips{why}")
        for role, names in (("audio", AUDIO_COLUMNS), ("text", TEXT_COLUMNS)):
            # This row's field may have no text. Its clip is then dropped.
            with suppress(ValueError):
                pick(row, column(place, role, names), table)


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the corpus that a manifest lists.

    Audio paths are relative to the manifest's folder. Without a split, a clip is in the split that
    its table or folder is named for, else in "train". Raises CorpusError for missing columns, a
    line that cannot be read and an empty table.
    """
    return read_tables(place, _tables(place), _rows, tick)


def read_tables(
    place: Place,
    tables: Sequence[tuple[str, str | None]],
    rows: Callable[[Place, str], Iterator[Row]],
    tick: Tick | None,
) -> Corpus:
    """The corpus of some tables, each with its split. `rows` reads one of them.

    Raises CorpusError for missing columns and an empty table.
    """
    entries = EntryList()
    ids = Seen()
    for table, split in tables:
        before, fits = len(entries), False
        for row in rows(place, table):
            if tick:
                tick()
            try:
                entries.extend(entries_of(place, table, row, split, ids))
            except ColumnError:
                # A row of JSON has fields of its own.
                if not fits:
                    raise
                row.fault = NO_FIELD
                entries.append(faulty_entry(row, table, split or TRAIN))
            fits = fits or not row.fault
        if len(entries) == before:
            raise CorpusError(f"{place.path}: {table} lists no clips")
    return Corpus(entries, place.audio())


def entries_of(place: Place, table: str, row: Row, split: str | None, ids: Seen) -> list[Entry]:
    """The entries of a row, with their fault if the row cannot be used. `ids` counts the ids.

    A row over 30 s whose words have times has several.
    """
    if row.fault:
        return [faulty_entry(row, table, split or TRAIN)]
    audio, text, fault = "", "", ""
    pieces = [TimedText(text, *WHOLE)]
    try:
        audio = pick(row, column(place, "audio", AUDIO_COLUMNS), table)
        text = pick(row, column(place, "text", TEXT_COLUMNS), table)
        times = _times(place, row)
        span = span_of(times, NEMO_AUDIO in row)
        pieces = [TimedText(text, *span, *_slack(row))]
        # The times of words may be in another unit, so a length that is stated counts first.
        is_short = span[1] is None and (stated_seconds(times) or inf) <= LONGEST_SECONDS
        if not is_short and (parts := parts_of(row.nested)):
            pieces = cut_long(text, span, parts)
    except ValueError as error:
        fault = str(error)
    folder = table.rpartition("/")[0]
    source = join(folder, audio) if folder and audio else audio
    own = pick_optional(row, column(place, "split", SPLIT_COLUMNS))
    if own is None and "split" not in place.columns:
        subsets = (split_name(row.get(name, "")) for name in SUBSET_COLUMNS)
        own = next((name for name in subsets if name in SPLITS), None)
    # In datasets' audiofolder the first folder of `file_name` may name the split.
    inner = (
        split_of_folders(audio.partition("/")[0]) if "file_name" in row and "/" in audio else None
    )
    speaker = (pick_optional(row, column(place, "speaker", SPEAKER_COLUMNS)) or "").strip()
    return [
        Entry(
            id=unique(ids, source or f"{table} line {row.line}"),
            source=source,
            text=it.text,
            speaker=speaker,
            split=split_name(own or "") or split or inner or TRAIN,
            start=it.start,
            end=it.end,
            fault=fault,
            start_slack=it.start_slack,
            end_slack=it.end_slack,
        )
        for it in pieces
    ]


def _slack(row: Row) -> tuple[float, float]:
    """How far the ends may move to pauses, as `lorajob corpus convert` writes it."""
    start, end = (row.get(name, "") for name in ("start_slack", "end_slack"))
    return (seconds(start) if start else 0.0, seconds(end) if end else 0.0)


def _times(place: Place, row: Row) -> dict[str, str]:
    """The row, with the mapped columns of times under their own names."""
    for name, why in row.odd.items():
        if is_time(name):
            raise ValueError(f"{name} that is no time ({why})")
    mapped = {role: place.columns.get(role, "").lower() for role in ("start", "end", DURATION)}
    return {**row, **{role: row.get(name, "") for role, name in mapped.items() if name}}


def _tables(place: Place) -> list[tuple[str, str | None]]:
    """The tables, and the split in each name.

    A folder has one table, or one for each split: `train.csv`, or `metadata.csv` in a folder train.
    """
    if place.table:
        return [(place.table, None)]
    if name := _named(place, ""):
        return [(name, None)]
    files = [name for name in place.files() if Path(name).suffix.lower() in TABLES]
    found: list[tuple[str, str | None]] = []
    found += [(name, split) for name in files if (split := split_of(stem(name)))]
    if not found:
        folders = [(split_of_folders(name), _named(place, f"{name}/")) for name in place.folders()]
        found += [(table, split) for split, table in folders if split and table]
    return found


def _named(place: Place, folder: str) -> str:
    return next((f"{folder}{name}" for name in _NAMES if place.has(f"{folder}{name}")), "")


def _rows(place: Place, table: str) -> Iterator[Row]:
    with place.open(table) as file:
        lines = text_lines(file, table)
        match Path(table).suffix.lower():
            case ".jsonl":
                yield from read_jsonl(lines, table)
            case ".csv":
                yield from read_csv(lines, table, _positions)
            case suffix if suffix in LISTS:
                yield from read_csv(lines, table, _positions)
            case _:
                yield from read_tsv(lines, table, _positions)


def _positions(first: list[str]) -> list[str] | None:
    """The columns of a table without header: a file and a text, in either order.

    Three columns are those of VITS, if the second is a number: a file, a speaker and a text.
    """
    sounds = [is_audio(field.strip()) for field in first]
    if sounds == [True, False, False] and first[1].strip().isdecimal():
        return ["audio", "speaker", "text"]
    if sorted(sounds) != [False, True]:
        return None
    return ["audio" if sound else "text" for sound in sounds]
