"""Reads tables of clips: TSV, CSV and JSON lines. Columns are found by name.

A row that cannot be read right is never cut or padded. It has a `fault`, and its clip is dropped
and counted by this reason.
"""

import csv
import io
import itertools
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO

from lorajob.corpora.entries import Entry
from lorajob.errors import ColumnError, CorpusError

MAX_LINE_BYTES = 1 << 20  # a transcript of 30 s has a few hundred characters
HEAD_LINES = 50  # that show how a program wrote the table
MAX_RECORD_LINES = 50  # of a field in quotes that has line breaks
HEAD_BYTES = 1 << 16  # that show a table's encoding and line ends
DELIMITERS = ",\t;|"
SEPARATOR = "sep="  # the first line of tables that Excel should read
AUDIO_ENDS = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".webm")
NUL = "NUL character"
SURROGATE = "lone surrogate, which is no character"
NOT_JSON = "line that is not JSON"
NO_FIELD = "line without audio or text"
NOT_AN_OBJECT = "line that is not a JSON object"
OPEN_QUOTE = "quotes that do not match"
HEADER_AGAIN = "header that is repeated"
INNER_TEXTS = ("text", "sentence", "transcript", "transcription")  # of a text that is an object


# The columns of a table, given the fields of its first line; None if that line is a header.
Positions = Callable[[list[str]], list[str] | None]


class Row(dict[str, str]):
    """The fields of a row by lower-case column name.

    `line` is where it begins. `fault` says why the row cannot be used. `odd` names the fields that
    have no text, and why: a column that is not needed may hold anything.
    """

    def __init__(self, fields: Iterable[tuple[str, str]], line: int, fault: str = "") -> None:
        super().__init__(fields)
        self.line = line
        self.fault = fault
        self.odd: dict[str, str] = {}
        self.nested: Mapping[str, object] = {}  # of a JSON object with lists, such as of words


def faulty_entry(row: Row, table: str, split: str) -> Entry:
    """The entry of a row that has a fault. It will be dropped."""
    return Entry(f"{table} line {row.line}", "", "", "", split, fault=row.fault)


def read_tsv(lines: Iterable[str], name: str, positions: Positions | None = None) -> Iterator[Row]:
    """Rows of a tab-separated table. `positions` knows the columns of a table without header.

    Quotes are text, because some sentences never close them. A field that a CSV writer has quoted,
    with each inner quote doubled, is unquoted.
    """
    numbered = _numbered(lines)
    header = next(numbered, None)
    if header is None:
        return
    if "\t" not in header[1] and any(it in header[1] for it in DELIMITERS):
        yield from _read(numbered, header, _delimiter(header[1]), name, positions)
        return
    names = header[1].split("\t")
    # A program that quotes all names quotes all fields.
    quoted = all(len(it) > 1 and it[0] == it[-1] == '"' for it in names)
    names = [_unquoted(it, quoted) for it in names]
    if positions and (known := positions(names)):
        names, numbered = known, itertools.chain([header], numbered)
    columns = _columns(names, name)
    for number, line in numbered:
        values = line.split("\t")
        if '"' in line:
            if len(values) != len(columns):
                values = _parsed(line, "\t") or values
            values = [_unquoted(it, quoted) for it in values]
        yield _row(columns, values, number, line)


def read_csv(lines: Iterable[str], name: str, positions: Positions | None = None) -> Iterator[Row]:
    """Rows of a table whose fields may be quoted. `positions` as in `read_tsv`.

    The header shows the delimiter: comma, semicolon, tab or `|`. A first line such as `sep=;` names
    it.
    """
    numbered = _numbered(lines)
    header = next(numbered, None)
    if header is None:
        return
    delimiter = ""
    if header[1].lower().startswith(SEPARATOR) and len(header[1]) == len(SEPARATOR) + 1:
        delimiter = header[1][-1]
        header = next(numbered, None)
        if header is None:
            return
    delimiter = delimiter or _known_delimiter(header[1], positions) or _delimiter(header[1])
    yield from _read(numbered, header, delimiter, name, positions)


def read_jsonl(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Rows of JSON objects, one on each line. null becomes "".

    Raises CorpusError if the first line is not a JSON object: then it is another kind of file.
    """
    seen = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        value, fault = parse_object(line)
        if fault and not seen:
            raise CorpusError(f"{name}: line {number} is {fault.removeprefix('line that is ')}")
        seen = True
        yield json_row(value, number, fault)


def json_row(value: Mapping[str, object], number: int, fault: str = "") -> Row:
    """The row of a JSON object. null becomes ""."""
    row = Row((), number, fault)
    if any(isinstance(it, list) for it in value.values()):
        row.nested = {key.strip().lower(): it for key, it in value.items()}
    for key, item in value.items():
        column = key.strip().lower()
        try:
            row[column] = text_of(item)
        except ValueError as error:
            row[column] = ""
            row.odd[column] = str(error)
    return row


def parse_object(line: str) -> tuple[dict[str, object], str]:
    """The JSON object of a line, and the fault if the line is not such an object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}, NOT_JSON
    return (value, "") if isinstance(value, dict) else ({}, NOT_AN_OBJECT)


def text_of(value: object) -> str:
    """A JSON value as text; null is "".

    An object with a path (as `audio` of Hugging Face) is its path, one with a text its text. Raises
    ValueError, in a few words, for any other list or object, a truth value, and text that cannot be
    written as UTF-8.
    """
    if isinstance(value, dict):
        if isinstance(path := value.get("path"), str):
            return text_of(path)
        found = [it for name in INNER_TEXTS if isinstance(it := value.get(name), str)]
        if len(found) == 1:
            return text_of(found[0])
        raise ValueError("text that is a JSON object")
    if isinstance(value, list):
        raise ValueError("text that is a JSON list")
    if isinstance(value, bool):
        raise ValueError(f"text that is {str(value).lower()}")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value)
    if fault := text_fault(text):
        raise ValueError(fault)
    return text


def text_fault(text: str) -> str:
    """Why a text cannot be used; "" if it can."""
    if "\0" in text:
        return NUL
    if any("\ud800" <= it <= "\udfff" for it in text):
        return SURROGATE
    return ""


def pick(row: Row, names: Sequence[str], table: str) -> str:
    """The value of the first column in `names` that `row` has.

    Raises CorpusError if it has none, ValueError if this row's field has no text.
    """
    name = next((it for it in names if it in row), None)
    if name is None:
        columns = list(row)
        if any(it.endswith(AUDIO_ENDS) for it in columns):
            raise ColumnError(
                f"{table}: its first line must name the columns, such as audio and text; it is"
                f" {', '.join(columns)}"
            )
        raise ColumnError(
            f"{table}: no column {' or '.join(names)}; its columns: {', '.join(row) or 'none'}"
        )
    if name in row.odd:
        raise ValueError(row.odd[name])
    return row[name]


def pick_optional(row: Row, names: Sequence[str]) -> str | None:
    """As `pick`, but None if `row` has no such column or its field has no text."""
    return next((row[name] for name in names if name in row), None)


def text_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Lines of a UTF-8 or UTF-16 file, without byte order marks.

    Lines end with a line feed; a file without any line feed may use carriage returns. `file` can
    seek. Raises CorpusError for other encodings and for lines over MAX_LINE_BYTES.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    encoding = _encoding(head)
    if encoding != "utf-8-sig" or (b"\r" in head and b"\n" not in head):
        yield from (_unmarked(line) for line in _decoded_lines(file, name, encoding))
        return
    for number in itertools.count(1):
        line = file.readline(MAX_LINE_BYTES)
        if not line:
            return
        if len(line) == MAX_LINE_BYTES:
            raise _too_long(name, number)
        try:
            yield _unmarked(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise CorpusError(
                f"{name}: line {number} is not UTF-8; save the file as UTF-8"
            ) from None


def _unmarked(line: str) -> str:
    """A line without byte order marks at its beginning. Joined files have them inside, too."""
    return line.lstrip("\ufeff") if line.startswith("\ufeff") else line


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    # Without a mark, the zero bytes of ASCII characters show the order.
    even, odd = head[0:64:2], head[1:64:2]
    if len(odd) > 1 and odd.count(0) > len(odd) / 2:
        return "utf-16-le"
    if len(even) > 1 and even.count(0) > len(even) / 2:
        return "utf-16-be"
    return "utf-8-sig"


def _decoded_lines(file: IO[bytes], name: str, encoding: str) -> Iterator[str]:
    """Lines that end with any of CR, LF and CR LF."""
    text = io.TextIOWrapper(file, encoding, newline=None)
    number = 1
    try:
        while line := text.readline(MAX_LINE_BYTES):
            if len(line) == MAX_LINE_BYTES:
                raise _too_long(name, number)
            yield line
            number += 1
    except UnicodeError:
        raise CorpusError(f"{name}: line {number} is not {encoding.upper()}") from None
    finally:
        # A reader that stops early may have closed the file before this generator ends.
        if not file.closed:
            text.detach()


def _too_long(name: str, number: int) -> CorpusError:
    return CorpusError(f"{name}: line {number} is over {MAX_LINE_BYTES:,} bytes long")


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that are not blank. A carriage return inside is white space."""
    for number, line in enumerate(lines, start=1):
        bare = line.rstrip("\r\n")
        if bare.strip():
            yield number, bare.replace("\r", " ")


def _known_delimiter(first: str, positions: Positions | None) -> str:
    """The delimiter by which `positions` knows a first line that is no header; "" without one."""
    if positions is None:
        return ""
    return next((it for it in DELIMITERS if positions(_parsed(first, it) or [])), "")


def _delimiter(header: str) -> str:
    """The delimiter that splits a header into most columns."""
    counts = {it: len(_parsed(header, it) or ()) for it in DELIMITERS}
    return max(DELIMITERS, key=lambda it: counts[it])


def _columns_of(names: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in names]


def _columns(names: Sequence[str], table: str) -> list[str]:
    columns = _columns_of(names)
    doubled = [name for name, count in Counter(columns).items() if name and count > 1]
    if doubled:
        raise CorpusError(f"{table}: two columns are named {doubled[0]}; rename one of them")
    return columns


def _read(
    numbered: Iterator[tuple[int, str]],
    header: tuple[int, str],
    delimiter: str,
    table: str,
    positions: Positions | None,
) -> Iterator[Row]:
    """Rows of a table with quotes, whose fields may have line breaks."""
    names = _parsed(header[1], delimiter) or [header[1]]
    if positions and (known := positions(names)):
        names, numbered = known, itertools.chain([header], numbered)
    columns = _columns(names, table)
    waiting = deque(itertools.islice(numbered, HEAD_LINES))
    spare = _all_end_empty([line for _, line in waiting], delimiter, len(columns))
    while first := (waiting.popleft() if waiting else next(numbered, None)):
        number, line = first
        values = _parsed(line, delimiter)
        if values is None and _is_open(line, delimiter):
            values = _long_record(line, delimiter, len(columns), waiting, numbered)
        if values is None:
            yield Row((), number, OPEN_QUOTE)
            continue
        while spare and len(values) > len(columns) and not values[-1].strip():
            values.pop()
        yield _row(columns, values, number, line)


def _long_record(
    line: str,
    delimiter: str,
    columns: int,
    waiting: deque[tuple[int, str]],
    numbered: Iterator[tuple[int, str]],
) -> list[str] | None:
    """The fields of a record that continues on the next lines, which are then taken.

    None, and no line is taken, if the quote is not closed soon, or if a line in between is a row by
    itself: then the quote is a mistake.
    """
    taken: list[tuple[int, str]] = []
    text = line
    while len(taken) < MAX_RECORD_LINES:
        more = waiting.popleft() if waiting else next(numbered, None)
        if more is None:
            break
        taken.append(more)
        text += "\n" + more[1]
        values = _parsed(text, delimiter)
        if values is not None:
            inner = (_parsed(it, delimiter) for _, it in taken[:-1])
            if len(values) == columns and not any(it and len(it) == columns > 1 for it in inner):
                return values
            break
        if not _is_open(text, delimiter):
            break
    waiting.extendleft(reversed(taken))
    return None


def _parsed(text: str, delimiter: str) -> list[str] | None:
    """The fields of a record; None if its quotes do not match."""
    if '"' not in text:
        return text.split(delimiter)
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = text.split("\n")
    given = [f"{it}\n" for it in lines[:-1]] + lines[-1:]
    try:
        rows = list(csv.reader(given, delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _is_open(text: str, delimiter: str) -> bool:
    """Whether a record ends within quotes, so that it may continue on the next line."""
    lines = text.split("\n")
    try:
        list(csv.reader([f"{it}\n" for it in lines], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def _all_end_empty(lines: list[str], delimiter: str, columns: int) -> bool:
    """Whether all rows have empty fields beyond the columns, as spreadsheets write them.

    In one row alone they come from a delimiter too many in its text.
    """
    rows = [values for line in lines if (values := _parsed(line, delimiter))]
    return bool(rows) and all(
        len(row) > columns and not any(field.strip() for field in row[columns:]) for row in rows
    )


def _row(columns: Sequence[str], values: Sequence[str], number: int, line: str) -> Row:
    if fault := text_fault(line):
        return Row((), number, fault)
    if len(values) != len(columns):
        fields = "1 field" if len(values) == 1 else f"{len(values)} fields"
        named = "1 is" if len(columns) == 1 else f"{len(columns)} are"
        return Row((), number, f"{fields} where {named} named")
    if values[0].strip().lower() == columns[0] and _columns_of(values) == [*columns]:
        return Row((), number, HEADER_AGAIN)
    return Row(zip(columns, values, strict=True), number)


def _unquoted(field: str, quoted: bool = False) -> str:
    """A field without the quotes of a CSV writer, which doubles each inner quote.

    A sentence in quotes, such as `"Hello"`, is not such a field: its writer would have written
    three quotes at each end. With `quoted`, the writer quoted every field.
    """
    inner = field[1:-1]
    if len(field) < 2 or field[0] != '"' or field[-1] != '"':
        return field
    if not quoted and '""' not in inner:
        return field
    plain = inner.replace('""', "")
    return field if '"' in plain else inner.replace('""', '"')
