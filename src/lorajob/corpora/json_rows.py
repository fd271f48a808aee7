"""Reads objects of JSON files: one on each line, or in a list."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from lorajob.corpora.names import split_of, stem
from lorajob.corpora.place import Place
from lorajob.corpora.tables import text_lines
from lorajob.errors import CorpusError

SUFFIXES = (".json", ".jsonl")
MAX_LIST_BYTES = 1 << 30  # of a file that is one list, which is read as a whole

Object = dict[str, Any]


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


def json_objects(place: Place, table: str) -> Iterator[Object]:
    """The objects of a file. Raises CorpusError, with the line, for anything else."""
    with place.open(table) as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        file.seek(0)
        if start.startswith(b"["):
            try:
                values = json.loads(file.read(MAX_LIST_BYTES))
            except ValueError as error:
                raise CorpusError(f"{table}: not JSON: {error}") from None
            rows: Iterator[tuple[int, Any]] = enumerate(values, start=1)
        else:
            rows = _lines(text_lines(file, table), table)
        for number, value in rows:
            if not isinstance(value, dict):
                raise CorpusError(f"{table}: row {number} is not a JSON object")
            yield {str(key).strip().lower(): item for key, item in value.items()}


def _lines(lines: Iterator[str], table: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                raise CorpusError(f"{table}: line {number} is not JSON") from None


def _first(place: Place, table: str) -> Object | None:
    try:
        return next(itertools.islice(json_objects(place, table), 1), None)
    # The reader of manifests will say what is wrong.
    except CorpusError:
        return None
