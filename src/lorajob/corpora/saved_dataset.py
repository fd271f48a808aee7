"""Reads folders that `datasets` writes with `save_to_disk`.

    speech/dataset_dict.json           {"splits": ["train", "test"]}
    speech/train/dataset_info.json  state.json  data-00000-of-00001.arrow
    speech/test/...

A folder may also hold one Dataset, with `state.json` at its top.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lorajob.corpora.arrow_rows import ArrowAudio, ArrowFile, find_columns, read_entries
from lorajob.corpora.clip import TRAIN, Corpus, Tick
from lorajob.corpora.names import split_name, split_of
from lorajob.corpora.place import Place
from lorajob.errors import CorpusError

NAME = "save_to_disk of datasets"
STATE, DICT = "state.json", "dataset_dict.json"


def looks_like(place: Place) -> str | None:
    return None if place.has(DICT) or _is_dataset(place, "") else f"no {DICT} and no {STATE}"


def check(place: Place, language: str) -> None:
    """Raise CorpusError if a file is damaged, or a column of audio or text is missing."""
    for part in _parts(place):
        find_columns(place, part)


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the data sets. Raises as `check` does."""
    parts = _parts(place)
    return Corpus(read_entries(place, parts, tick), ArrowAudio(place, parts))


def _parts(place: Place) -> list[ArrowFile]:
    folders = [""] if _is_dataset(place, "") else place.folders()
    return [part for folder in folders if _is_dataset(place, folder) for part in _of(place, folder)]


def _of(place: Place, folder: str) -> list[ArrowFile]:
    state = _json(place, f"{folder}/{STATE}" if folder else STATE)
    named = folder or state.get("_split") or ""
    split = (split_of(named) or split_name(named) or TRAIN) if isinstance(named, str) else TRAIN
    files = [it.get("filename") for it in state.get("_data_files") or () if isinstance(it, dict)]
    names = [f"{folder}/{file}" if folder else str(file) for file in files]
    if state.get("_indices_data_files"):
        raise CorpusError(
            f"{place.path}: {folder or STATE} was saved with an index, by an old version of"
            " datasets; load it and save it again"
        )
    return [_part(place, name, split, folder) for name in names]


def _part(place: Place, name: str, split: str, folder: str) -> ArrowFile:
    import pyarrow as pa

    @contextmanager
    def opened(columns: Sequence[str] | None) -> Iterator[Iterator[Any]]:
        try:
            with _opened(place, name) as file, pa.ipc.open_stream(file) as stream:
                yield (_selected(batch, columns) for batch in stream)
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(f"{place.path}: {name} cannot be read: {error}") from None

    try:
        with place.open(name) as file, pa.ipc.open_stream(file) as stream:
            schema = stream.schema
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{place.path}: {name} is not an Arrow file: {error}") from None
    return ArrowFile(name, split, folder, schema, opened)


def _selected(batch: Any, columns: Sequence[str] | None) -> Any:
    """The batch with these columns. `audio.path` is a field of the column audio."""
    import pyarrow as pa

    if columns is None:
        return batch
    arrays = []
    names = []
    for name in columns:
        if name in batch.schema.names:
            arrays.append(batch.column(name))
        else:
            outer, _, inner = name.partition(".")
            value = batch.column(outer).field(inner)
            arrays.append(pa.StructArray.from_arrays([value], [inner]))
            name = outer
        names.append(name)
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _opened(place: Place, name: str) -> Any:
    """The file, mapped into memory where that is possible: columns of audio are then skipped."""
    import pyarrow as pa

    path = place.local(name)
    return place.open(name) if path is None else pa.memory_map(str(path))


def _is_dataset(place: Place, folder: str) -> bool:
    names = (STATE, "dataset_info.json")
    return all(place.has(f"{folder}/{name}" if folder else name) for name in names)


def _json(place: Place, name: str) -> dict[str, Any]:
    with place.open(name) as file:
        try:
            value = json.load(file)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise CorpusError(f"{place.path}: {name} is damaged; not a JSON object")
    return value
