"""Reads tables of clips: TSV, CSV and JSON lines. Columns are found by name."""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from lorajob.errors import CorpusError

MAX_LINE_BYTES = 1 << 20  # a transcript of 30 s has a few hundred characters

Row = dict[str, str]


def read_tsv(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Rows of a tab-separated table. Quotes are text, because some sentences never close them."""
    return _read(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), name)


def read_csv(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Rows of a comma-separated table. Fields may be quoted."""
    return _read(csv.reader(lines), name)


def read_jsonl(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Rows of JSON objects, one on each line. Other values become text, and null becomes ""."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except ValueError:
            raise CorpusError(f"{name}: line {number} is not JSON") from None
        if not isinstance(value, dict):
            raise CorpusError(f"{name}: line {number} is not a JSON object")
        yield {key.strip().lower(): _text(item) for key, item in value.items()}


def pick(row: Row, names: Sequence[str], table: str) -> str:
    """The value of the first column in `names` that `row` has. Raises CorpusError without one."""
    found = pick_optional(row, names)
    if found is None:
        raise CorpusError(
            f"{table}: no column {' or '.join(names)}; its columns: {', '.join(row) or 'none'}"
        )
    return found


def pick_optional(row: Row, names: Sequence[str]) -> str | None:
    """As `pick`, but None if `row` has no such column."""
    return next((row[name] for name in names if name in row), None)


def text_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Lines of a UTF-8 file. A byte order mark is skipped.

    Raises CorpusError for other encodings and for lines over MAX_LINE_BYTES.
    """
    for number in itertools.count(1):
        line = file.readline(MAX_LINE_BYTES)
        if not line:
            return
        if len(line) == MAX_LINE_BYTES:
            raise CorpusError(f"{name}: line {number} is over {MAX_LINE_BYTES:,} bytes long")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise CorpusError(f"{name}: line {number} is not UTF-8") from None


def _read(reader: Any, name: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = _checked(reader, name)
    header = [column.strip().lower() for column in next(rows, [])]
    for values in rows:
        if values:
            padded = values + [""] * (len(header) - len(values))
            yield dict(zip(header, padded, strict=False))


def _checked(reader: Any, name: str) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise CorpusError(f"{name}: line {reader.line_num} cannot be read: {error}") from None


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)
