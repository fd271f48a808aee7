"""Reads corpora in the layout of LJSpeech.

    LJSpeech-1.1/metadata.csv          LJ001-0001|Printing, in the only sense ...|Printing, in ...
    LJSpeech-1.1/wavs/LJ001-0001.wav

The columns are id, text and normalized_text. The text is the second one, as it was written;
`--map text=normalized_text` takes the third. The table has neither header nor quotes.
"""

from collections.abc import Iterator

from lorajob.corpora.clip import TRAIN, Corpus, Tick
from lorajob.corpora.entries import Entry, EntryList
from lorajob.corpora.ids import Seen, unique
from lorajob.corpora.names import column, is_audio, stem
from lorajob.corpora.place import Place
from lorajob.corpora.tables import text_lines
from lorajob.errors import CorpusError

NAME = "LJSpeech"
TABLE, SOUND = "metadata.csv", "wavs"
COLUMNS = ("id", "text", "normalized_text")


def looks_like(place: Place) -> str | None:
    if not place.has(TABLE) or SOUND not in place.folders():
        return f"no {TABLE} beside a folder {SOUND}"
    first = next(_rows(place), [""])
    if len(first) < 2 or first[0].strip().lower() in ("audio", "file", "file_name", "path", "id"):
        return f"{TABLE} is not a table without header whose columns are divided by |"
    return None


def check(place: Place, language: str) -> None:
    """Raise CorpusError if a mapped column is unknown."""
    _text_column(place)


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the corpus. A row with more or fewer fields than the first one is dropped."""
    index, width = _text_column(place), 0
    files = {stem(name): name for name in place.files(SOUND) if is_audio(name)}
    entries, ids = EntryList(), Seen()
    for number, row in enumerate(_rows(place), start=1):
        if tick:
            tick()
        width = width or len(row)
        fault = "" if len(row) == width else f"{len(row)} fields where {width} are expected"
        name = row[0].strip().rpartition("/")[2]
        source = name if is_audio(name) else files.get(name, f"{name}.wav")
        text = row[index] if index < len(row) else ""
        key = unique(ids, name or f"row {number}")
        entries.append(Entry(key, source, text, "", TRAIN, fault=fault))
    return Corpus(entries, place.audio(SOUND))


def _text_column(place: Place) -> int:
    (wanted,) = column(place, "text", ("text",))
    if wanted not in COLUMNS:
        raise CorpusError(f"{TABLE}: no column {wanted}; its columns: {', '.join(COLUMNS)}")
    return COLUMNS.index(wanted)


def _rows(place: Place) -> Iterator[list[str]]:
    with place.open(TABLE) as file:
        for line in text_lines(file, TABLE):
            if line.strip():
                yield line.rstrip("\r\n").split("|")
