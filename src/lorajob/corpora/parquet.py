"""Reads Parquet files with audio in them, such as the files of a data set on the Hub.

    data/train-00000-of-00002.parquet      columns audio, of {"bytes", "path"}, and text
    data/test-00000-of-00001.parquet

The split is in the name of a file or folder. Folders named for languages are configurations: those
of the job's language are read.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lorajob.corpora.arrow_rows import BATCH_ROWS, ArrowAudio, ArrowFile, find_columns, read_entries
from lorajob.corpora.clip import TRAIN, Corpus, Tick
from lorajob.corpora.entries import EntryList
from lorajob.corpora.names import split_name, split_of, split_of_folders, stem
from lorajob.corpora.place import Place
from lorajob.errors import CorpusError
from lorajob.languages import is_locale, is_locale_of

NAME = "Parquet"
SUFFIX = ".parquet"
_SHARD = re.compile(r"(.+?)-\d{5}(?:-of-\d{5})?(?:-[0-9a-f]+)?")


def looks_like(place: Place) -> str | None:
    return None if next(_names(place), None) else f"no {SUFFIX} file"


def check(place: Place, language: str) -> None:
    """Raise CorpusError if a file is damaged, or a column of audio or text is missing."""
    for part in _parts(place, language):
        find_columns(place, part)


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the files. Raises as `check` does."""
    parts = _parts(place, language)
    return Corpus(read_entries(place, parts, tick), ArrowAudio(place, parts))


def first_clips(place: Place, language: str, most: int) -> EntryList:
    """The first clips, at most `most`. Raises as `check` does."""
    return read_entries(place, _parts(place, language), None, most)


def shard_split(name: str) -> str | None:
    """The split in the name of a file such as `data/train-00000-of-00002.parquet`."""
    match = _SHARD.fullmatch(stem(name))
    return match[1] if match else split_of(stem(name))


def _parts(place: Place, language: str) -> list[ArrowFile]:
    names = list(_names(place))
    locales = {name: name.partition("/")[0].partition("_")[0] for name in names if "/" in name}
    locales = {name: code for name, code in locales.items() if is_locale(code)}
    if len({*locales.values()}) > 1:
        names = [name for name in names if is_locale_of(locales.get(name, ""), language)]
        if not names:
            have = ", ".join(sorted({*locales.values()}))
            raise CorpusError(f"corpus: {place.path} has {have}, but the job's is {language}")
    return [_part(place, name) for name in names]


def _part(place: Place, name: str) -> ArrowFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    @contextmanager
    def opened(columns: Sequence[str] | None) -> Iterator[Iterator[Any]]:
        try:
            with place.open(name) as file, pq.ParquetFile(file) as table:
                yield table.iter_batches(BATCH_ROWS, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(f"{place.path}: {name} cannot be read: {error}") from None

    try:
        with place.open(name) as file, pq.ParquetFile(file) as table:
            schema = table.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{place.path}: {name} is not a whole Parquet file: {error}") from None
    return ArrowFile(name, _split(place, name), name.rpartition("/")[0], schema, opened)


def _split(place: Place, name: str) -> str:
    if place.table:
        return TRAIN
    if match := _SHARD.fullmatch(stem(name)):
        return split_of(match[1]) or split_name(match[1])
    return split_of(stem(name)) or split_of_folders(name.rpartition("/")[0]) or TRAIN


def _names(place: Place) -> Iterator[str]:
    names = iter([place.table]) if place.table else place.walk()
    return (name for name in names if name.lower().endswith(SUFFIX))
