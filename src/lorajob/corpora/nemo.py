"""Reads manifests of NVIDIA NeMo: JSON lines in .json or .jsonl files.

    train_manifest.json    {"audio_filepath": "a.wav", "duration": 3.2, "text": "..."}
    test_manifest.json

`duration`, and `offset` if it is there, cut the recording, as in NeMo. A folder may hold one
manifest for each split.
"""

from lorajob.corpora.clip import Corpus, Tick
from lorajob.corpora.entries import Entry
from lorajob.corpora.ids import Seen, unique
from lorajob.corpora.json_rows import Object, json_corpus, json_objects, json_tables
from lorajob.corpora.names import column, locate, split_name
from lorajob.corpora.place import Place
from lorajob.corpora.spans import WHOLE, span_of
from lorajob.corpora.tables import text_of
from lorajob.corpora.timed import TimedText, cut_long, parts_of
from lorajob.errors import CorpusError

NAME = "NeMo manifest"
AUDIO = "audio_filepath"


def looks_like(place: Place) -> str | None:
    return None if json_tables(place, _fits) else f"no JSON file whose rows have {AUDIO}"


def check(place: Place, language: str) -> None:
    """Raise CorpusError if the first row has no text column."""
    for table, _ in json_tables(place, _fits):
        row, _ = next(json_objects(place, table))
        _text_key(place, table, row)


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the manifests. Raises CorpusError for a line that is not a JSON object."""
    keys: dict[str, str] = {}  # of the text in each table

    def read(row: Object, table: str, number: int, split: str, ids: Seen) -> list[Entry]:
        if table not in keys:
            keys[table] = _text_key(place, table, row)
        return _entries(place, row, (keys[table], f"{table} row {number}"), split, ids)

    return json_corpus(place, _fits, read, tick)


def _entries(
    place: Place, row: Object, names: tuple[str, str], split: str, ids: Seen
) -> list[Entry]:
    """The entries of a row, given the key of its text and the id of a row without audio."""
    fault, (key, unnamed) = "", names
    pieces = [TimedText("", *WHOLE)]
    try:
        text = text_of(row.get(key))
        times = {name: text_of(row.get(name)) for name in ("offset", "duration")}
        pieces = cut_long(text, span_of(times, duration_cuts=True), parts_of(row))
    except ValueError as error:
        fault = str(error)
    name = row.get(AUDIO)
    name = name if isinstance(name, str) else ""
    own = row.get("split")
    return [
        Entry(
            id=unique(ids, name or unnamed),
            source=locate(place, "", name),
            text=it.text,
            speaker=str(row.get("speaker") or row.get("speaker_id") or ""),
            split=split_name(own) if isinstance(own, str) and own else split,
            start=it.start,
            end=it.end,
            fault=fault,
            start_slack=it.start_slack,
            end_slack=it.end_slack,
        )
        for it in pieces
    ]


def _fits(row: Object) -> bool:
    return AUDIO in row


def _text_key(place: Place, table: str, row: Object) -> str:
    names = column(place, "text", ("text", "text_no_preprocessing", "transcript", "sentence"))
    found = next((name for name in names if name in row), None)
    if found is None:
        have = ", ".join(row)
        raise CorpusError(f"{table}: no column {' or '.join(names)}; its columns: {have}")
    return found
