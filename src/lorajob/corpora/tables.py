"""Tables of clips: TSV, CSV and JSON lines, their columns found by name."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from lorajob.errors import CorpusError

MAX_FIELD_CHARS = 1 << 20  # a transcript of 30 s has some hundreds

Row = dict[str, str]


def read_tsv(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Rows of a tab-separated table. Quotes are text: sentences begin with them and never close."""
    return _read(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), name)


def read_csv(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Rows of a comma-separated table, quoted where needed."""
    return _read(csv.reader(lines), name)


def read_jsonl(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Rows of JSON objects, one a line; values that are no text become text, null becomes ""."""
    for number, line in enumerate(_decoded(lines, name), start=1):
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
    """The column of `row` that is called one of `names`. Raises CorpusError where none is."""
    found = pick_optional(row, names)
    if found is None:
        raise CorpusError(
            f"{table}: no column {' or '.join(names)}; its columns: {', '.join(row) or 'none'}"
        )
    return found


def pick_optional(row: Row, names: Sequence[str]) -> str | None:
    """As `pick`, None where no column is called so."""
    return next((row[name] for name in names if name in row), None)


def open_text(file: Any) -> TextIO:
    """Bytes as lines for this module; a byte order mark is skipped."""
    import io

    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _read(reader: Any, name: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_FIELD_CHARS)
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
    except UnicodeDecodeError:
        raise CorpusError(f"{name}: not UTF-8 after line {reader.line_num}") from None


def _decoded(lines: Iterable[str], name: str) -> Iterator[str]:
    number = 0
    try:
        for line in lines:
            number += 1
            yield line
    except UnicodeDecodeError:
        raise CorpusError(f"{name}: not UTF-8 after line {number}") from None


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)
