"""Reads LibriSpeech and Multilingual LibriSpeech (MLS).

    LibriSpeech/train-clean-100/103/1240/103-1240.trans.txt     103-1240-0000 CHAPTER ONE ...
    LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac

    mls_polish/train/transcripts.txt                            6892_10049_000000<tab>nie zwa...
    mls_polish/train/audio/6892/10049/6892_10049_000000.flac    or .opus

The split is in the name of a folder, the speaker the first number of an id.
"""

import re
from collections.abc import Iterator

from lorajob.corpora.clip import TRAIN, Corpus, Tick
from lorajob.corpora.entries import Entry, EntryList
from lorajob.corpora.ids import Seen, unique
from lorajob.corpora.names import is_audio, split_of_folders, stem
from lorajob.corpora.place import Place
from lorajob.corpora.tables import text_lines
from lorajob.errors import CorpusError

NAME = "LibriSpeech or MLS"
LIBRI, MLS = ".trans.txt", "transcripts.txt"


def looks_like(place: Place) -> str | None:
    return None if next(_tables(place), None) else f"no *{LIBRI} and no {MLS}"


def check(place: Place, language: str) -> None:
    """Raise CorpusError if the first table has no clip."""
    table = next(_tables(place))
    if next(_rows(place, table), None) is None:
        raise CorpusError(f"{place.path}: {table} lists no clips")


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the corpus. Audio beside a table that does not list it is counted, without a text."""
    entries, ids = EntryList(), Seen()
    for table in _tables(place):
        folder = table.rpartition("/")[0]
        split = split_of_folders(folder) or split_of_folders(place.name) or TRAIN
        files = _files(place, folder, table)
        listed = dict(_rows(place, table))
        for name in {**listed, **dict.fromkeys(files)}:
            if tick:
                tick()
            source = files.get(name) or f"{folder}/{name}.flac"
            fault = "" if name in listed else f"not in {table.rpartition('/')[2]}"
            speaker = re.split("[-_]", name)[0]
            key = unique(ids, name)
            entries.append(Entry(key, source, listed.get(name, ""), speaker, split, fault=fault))
    return Corpus(entries, place.audio())


def _tables(place: Place) -> Iterator[str]:
    # MLS's subsets for limited supervision list clips of train again.
    for name in place.walk():
        if name.endswith(LIBRI) or name.rpartition("/")[2] == MLS:
            yield name


def _files(place: Place, folder: str, table: str) -> dict[str, str]:
    """Id -> name of the audio that belongs to a table."""
    names = place.walk(f"{folder}/audio" if folder else "audio")
    if table.endswith(LIBRI):
        prefix = f"{folder}/" if folder else ""
        names = (f"{prefix}{name}" for name in place.files(folder))
    return {stem(name): name for name in names if is_audio(name)}


def _rows(place: Place, table: str) -> Iterator[tuple[str, str]]:
    with place.open(table) as file:
        for line in text_lines(file, table):
            name, *text = line.strip().split(None, 1)[:2] or [""]
            if name:
                yield name, text[0] if text else ""
