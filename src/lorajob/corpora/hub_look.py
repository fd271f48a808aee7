"""A short look at a data set of the Hub: its card, and the first rows of its tables."""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lorajob.corpora import hub, manifest, parquet
from lorajob.corpora.arrow_rows import ArrowFile, find_columns
from lorajob.corpora.clip import SPLITS, Columns
from lorajob.corpora.entries import Entry
from lorajob.corpora.names import split_name, split_of
from lorajob.corpora.peek import BLOCK_BYTES, OneFile
from lorajob.corpora.place import Place
from lorajob.errors import CorpusError

ROWS = 256  # most rows that are read
TABLES = ("metadata.csv", "metadata.jsonl")  # of a folder of audio


@dataclass(frozen=True)
class Asked:
    """What a job wants of a data set. `train_splits` is empty if it need not be trained on."""

    url: str
    language: str
    columns: Columns
    train_splits: Collection[str] = ()


def look_at_hub(asked: Asked) -> Sequence[Entry]:
    """The first clips of a data set on the Hub; none if its layout shows them only when it is read.

    Raises UsageError or CorpusError if columns or a split for training are missing, as the card or
    the first file says; StoreError without the Hub.
    """
    corpus = hub.parse(asked.url)
    info = hub.info(corpus)
    card = hub.card(info)
    described = _described(card, corpus.config)
    files = [str(it.rfilename) for it in info.siblings or ()]
    tables = _tables(files, card, corpus)
    splits = _named(described.get("splits")) or list(tables)
    _check_splits(asked, corpus, splits, _check_card(asked, corpus, described))

    def opened(name: str) -> IO[bytes]:
        from huggingface_hub import HfFileSystem

        url = f"hf://datasets/{corpus.name}@{info.sha}/{name}"
        file: IO[bytes] = HfFileSystem().open(url, "rb", block_size=BLOCK_BYTES)
        return file

    def beginning(name: str) -> IO[bytes]:
        with opened(name) as file:
            return io.BytesIO(file.read(BLOCK_BYTES))

    def place(name: str, read: Callable[[str], IO[bytes]]) -> Place:
        path = Path(f"hf:{corpus.name}", name)
        return Place(OneFile(path, lambda: read(name)), table=path.name, columns=asked.columns)

    for split in (it for it in corpus.splits or tables if it in tables):
        return parquet.first_clips(place(tables[split], opened), asked.language, ROWS)
    listed = [it for it in files if PurePosixPath(it).name in TABLES]
    if listed and not tables and not corpus.config:
        manifest.check(place(listed[0], beginning), asked.language)
    return ()


def _described(card: Mapping[str, Any], config: str | None) -> Mapping[str, Any]:
    """What the card says of a configuration's columns and splits."""
    found = card.get("dataset_info")
    several = [it for it in found if isinstance(it, dict)] if isinstance(found, list) else []
    if isinstance(found, dict):
        several = [found]
    wanted = config or "default"
    own = [it for it in several if it.get("config_name", "default") == wanted]
    return own[0] if own else {}


def _named(values: object) -> list[str]:
    """The names in a list of objects."""
    given = values if isinstance(values, list) else []
    return [str(it["name"]) for it in given if isinstance(it, dict) and "name" in it]


def _check_card(asked: Asked, corpus: hub.HubCorpus, described: Mapping[str, Any]) -> bool:
    """Raise ColumnError if the card names columns, but none for audio or text.

    Returns whether a column says of each row in which split it is.
    """
    import pyarrow as pa

    given = described.get("features")
    features = given if isinstance(given, list) else []
    names = _named(features)
    if not names or len(names) != len(features):
        return False
    sound = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = [sound if it.get("dtype") == "audio" else pa.string() for it in features]
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    part = ArrowFile(f"corpus: hf:{corpus.name}", "", "", schema, _unread)
    nothing = Place(OneFile(Path(corpus.name), _nothing), columns=asked.columns)
    return find_columns(nothing, part).split is not None


def _unread(_: object) -> Any:
    raise CorpusError("only the card was read")


def _nothing() -> IO[bytes]:
    raise CorpusError("only the card was read")


def _check_splits(
    asked: Asked, corpus: hub.HubCorpus, splits: Sequence[str], in_rows: bool
) -> None:
    """Raise UsageError for a split that is missing, CorpusError if none is for training."""
    if missing := [it for it in corpus.splits if splits and it not in splits]:
        raise hub.no_split(corpus, missing, splits)
    used = corpus.splits or splits
    roles = {split_of(it) or split_name(it) for it in used}
    known = roles <= {*SPLITS}
    if asked.train_splits and used and known and not in_rows and not roles & {*asked.train_splits}:
        raise CorpusError(
            f"preprocess.train_splits: no clips in {', '.join(asked.train_splits)}; splits of"
            f" hf:{corpus.name}: {', '.join(used)}"
        )


def _tables(files: Sequence[str], card: Mapping[str, Any], corpus: hub.HubCorpus) -> dict[str, str]:
    """Split -> its first Parquet file; empty if it is not clear which files belong to it."""
    names = [it for it in files if it.lower().endswith(parquet.SUFFIX)]
    listed = hub.data_files(card, corpus.config)
    if listed:
        firsts = {
            split: next((it for it in names if any(fnmatch(it, one) for one in paths)), "")
            for split, paths in listed.items()
        }
        return firsts if all(firsts.values()) else {}
    if corpus.config:
        names = [it for it in names if corpus.config in it.split("/")[:-1]]
    found: dict[str, str] = {}
    for name in names:
        split = parquet.shard_split(name)
        if split is None:
            return {}
        found.setdefault(split, name)
    return found
