"""Reads objects of JSON files: one on each line, or in a list."""

import json
from collections.abc import Callable, Iterable, Iterator

from lorajob.corpora.clip import TRAIN, Corpus, Tick
from lorajob.corpora.entries import Entry, EntryList
from lorajob.corpora.ids import Seen, unique
from lorajob.corpora.names import split_of, stem
from lorajob.corpora.place import Place
from lorajob.corpora.tables import NOT_AN_OBJECT, parse_object, text_lines
from lorajob.errors import CorpusError

SUFFIXES = (".json", ".jsonl")
MAX_LIST_BYTES = 1 << 30  # of a file that is one list, which is read as a whole

Object = dict[str, object]


class NotJsonError(CorpusError):
    """A file that begins as a JSON list does is not JSON."""


def json_tables(place: Place, fits: Callable[[Object], bool]) -> list[tuple[str, str | None]]:
    """The JSON files of a place whose first object fits, and the split in each name.

    That is the file that was given, or all such files of the folder.
    """
    names = [place.table] if place.table else place.files()
    found = []
    for name in names:
        if name.lower().endswith(SUFFIXES) and (first := _first(place, name)) and fits(first):
            found.append((name, None if place.table else split_of(stem(name))))
    return found


def json_objects(place: Place, table: str) -> Iterator[tuple[Object, str]]:
    """(object, fault) of each row of a file. A row with a fault is an empty object.

    Raises CorpusError if the first row is not a JSON object: then it is another kind of file.
    """
    with place.open(table) as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        file.seek(0)
        if start.startswith(b"["):
            try:
                values = _parse_list(file.read(MAX_LIST_BYTES))
            except ValueError as error:
                raise NotJsonError(f"corpus: {place.path}: {table} is not JSON: {error}") from None
            rows = ((it, "") if isinstance(it, dict) else ({}, NOT_AN_OBJECT) for it in values)
        else:
            rows = (parse_object(line) for line in text_lines(file, table) if line.strip())
        for number, (value, fault) in enumerate(rows, start=1):
            if fault and number == 1:
                raise CorpusError(f"{table}: row 1 is {fault.removeprefix('line that is ')}")
            yield {str(key).strip().lower(): item for key, item in value.items()}, fault


def json_corpus(
    place: Place,
    fits: Callable[[Object], bool],
    read: Callable[[Object, str, int, str, Seen], Iterable[Entry]],
    tick: Tick | None,
) -> Corpus:
    """The corpus of the JSON files whose first object fits.

    `read` returns the entries of an object, given its file, its number there from 1, the split in
    the file's name (`train` without one) and the ids of earlier entries. A row that is no object
    becomes an entry with that fault. Raises CorpusError as `json_objects`.
    """
    entries = EntryList()
    ids = Seen()
    for table, in_name in json_tables(place, fits):
        split = in_name or TRAIN
        for number, (row, fault) in enumerate(json_objects(place, table), start=1):
            if tick:
                tick()
            if fault:
                name = unique(ids, f"{table} row {number}")
                entries.append(Entry(name, "", "", "", split, fault=fault))
            else:
                entries.extend(read(row, table, number, split, ids))
    return Corpus(entries, place.audio())


def _parse_list(data: bytes) -> list[object]:
    """A JSON list. A comma behind its last value is left out. Raises ValueError."""
    begun, end, rest = data.rpartition(b"]")
    if end and not rest.strip() and (values := begun.rstrip()).endswith(b","):
        data = values[:-1] + end
    found: list[object] = json.loads(data)
    return found


def _first(place: Place, table: str) -> Object | None:
    try:
        return next((row for row, _ in json_objects(place, table)), None)
    except NotJsonError:
        # Beside other tables such a file may be no part of the corpus.
        if place.table:
            raise
        return None
    # The reader of manifests will say what is wrong.
    except CorpusError:
        return None
