"""Reads the JSON lines of Whisper-Finetune.

    train.jsonl  {"audio": {"path": "dataset/0.wav"}, "sentence": "...", "duration": 7.4,
                  "language": "Hindi", "sentences": [{"start": 0, "end": 1.4, "text": "..."}]}
    test.jsonl

A row is one clip. A row over 30 s, or without `sentence`, gives a clip for each of its `sentences`.
`start_time` and `end_time` beside `path` cut the recording.
"""

from collections.abc import Iterator

from lorajob.corpora.clip import Corpus, Tick
from lorajob.corpora.entries import Entry
from lorajob.corpora.ids import Seen, unique
from lorajob.corpora.json_rows import Object, json_corpus, json_objects, json_tables
from lorajob.corpora.names import column, locate
from lorajob.corpora.place import Place
from lorajob.corpora.spans import WHOLE, span_of
from lorajob.corpora.tables import text_of
from lorajob.corpora.timed import TimedText, cut_long, parts_of
from lorajob.errors import UsageError
from lorajob.languages import find_language

NAME = "Whisper-Finetune JSON lines"
LONGEST_SECONDS = 30.0  # of a clip


def looks_like(place: Place) -> str | None:
    if json_tables(place, _fits):
        return None
    return "no JSON file whose rows have audio.path and sentence or sentences"


def check(place: Place, language: str) -> None:
    """Raise UsageError if the first row is in another language."""
    for table, _ in json_tables(place, _fits):
        row, _ = next(json_objects(place, table))
        if fault := _language_fault(row, language):
            raise UsageError(f"corpus: {table} has a {fault}, but the job's language is {language}")


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the tables. Rows in other languages are dropped."""

    def read(row: Object, table: str, number: int, split: str, ids: Seen) -> Iterator[Entry]:
        name = _path(row)
        for it, fault in _parts(place, row):
            yield Entry(
                id=unique(ids, name or f"{table} row {number}"),
                source=locate(place, "", name),
                text=it.text,
                speaker=str(row.get("speaker") or ""),
                split=split,
                start=it.start,
                end=it.end,
                fault=_language_fault(row, language) or fault,
                start_slack=it.start_slack,
                end_slack=it.end_slack,
            )

    return json_corpus(place, _fits, read, tick)


def _parts(place: Place, row: Object) -> Iterator[tuple[TimedText, str]]:
    """Text with its place, and fault, of each clip of a row."""
    sentences = row.get("sentences")
    (key,) = column(place, "text", ("sentence",))
    whole = row.get(key) and _seconds(row) <= LONGEST_SECONDS
    if isinstance(sentences, list) and sentences and not whole:
        for sentence in sentences:
            if isinstance(sentence, dict):
                yield from _cut(sentence, sentence, "text")
            else:
                yield NOTHING, "sentence that is not a JSON object"
    else:
        yield from _cut({**_times(row), key: row.get(key)}, row, key)


NOTHING = TimedText("", *WHOLE)


def _cut(values: Object, timed: Object, key: str) -> Iterator[tuple[TimedText, str]]:
    """The clips of a text; several if it is over 30 s and `timed` has its words."""
    try:
        times = {name: text_of(values.get(name)) for name in ("start", "end")}
        found = cut_long(text_of(values.get(key)), span_of(times), parts_of(timed))
    except ValueError as error:
        yield NOTHING, str(error)
        return
    for it in found:
        yield it, ""


def _times(row: Object) -> Object:
    audio = row.get("audio")
    if not isinstance(audio, dict):
        return {}
    return {"start": audio.get("start_time"), "end": audio.get("end_time")}


def _seconds(row: Object) -> float:
    """The length of the row's audio, if the row states it."""
    sentences = row.get("sentences")
    listed = sentences if isinstance(sentences, list) else []
    ends = [it.get("end") for it in listed if isinstance(it, dict)]
    numbers = [it for it in (row.get("duration"), *ends) if isinstance(it, int | float)]
    return max(numbers, default=0.0)


def _path(row: Object) -> str:
    audio = row.get("audio")
    path = audio.get("path") if isinstance(audio, dict) else None
    return path if isinstance(path, str) else ""


def _language_fault(row: Object, language: str) -> str:
    name = row.get("language")
    if not isinstance(name, str) or not name.strip():
        return ""
    try:
        other = find_language(name).code
    except UsageError:
        return ""
    return "" if other == language else f"row in another language ({other})"


def _fits(row: Object) -> bool:
    audio = row.get("audio")
    has_path = isinstance(audio, dict) and "path" in audio
    return has_path and ("sentence" in row or "sentences" in row)
