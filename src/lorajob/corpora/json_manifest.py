"""Reads manifests that are a JSON file with a list of objects, or with one object on each line.

    train.json    [{"audio": "a.wav", "text": "..."}, {"audio": {"path": "b.wav"}, "text": "..."}]
    test.json

The columns are those of other manifests (manifest.py).
"""

from collections.abc import Iterator

from lorajob.corpora.clip import Corpus, Tick
from lorajob.corpora.json_rows import Object, json_objects, json_tables
from lorajob.corpora.manifest import AUDIO_COLUMNS, TEXT_COLUMNS, read_tables
from lorajob.corpora.names import column
from lorajob.corpora.place import Place
from lorajob.corpora.tables import Row, json_row

NAME = "JSON manifest"


def looks_like(place: Place) -> str | None:
    if _tables(place):
        return None
    return "no .json file whose objects have columns such as audio and text"


def check(place: Place, language: str) -> None:
    """Nothing more to check: `looks_like` has found the columns."""


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the corpus. Raises CorpusError for a file that is damaged or lists nothing."""
    return read_tables(place, _tables(place), _rows, tick)


def _tables(place: Place) -> list[tuple[str, str | None]]:
    roles = column(place, "audio", AUDIO_COLUMNS), column(place, "text", TEXT_COLUMNS)

    def fits(first: Object) -> bool:
        return all(any(name in first for name in names) for names in roles)

    found = [it for it in json_tables(place, fits) if it[0].lower().endswith(".json")]
    # Beside tables of splits, any other file is not a part of the corpus.
    return [it for it in found if it[1]] or found


def _rows(place: Place, table: str) -> Iterator[Row]:
    for number, (value, fault) in enumerate(json_objects(place, table), start=1):
        yield Row((), number, fault) if fault else json_row(value, number)
