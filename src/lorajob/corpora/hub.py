"""Data sets of the Hugging Face Hub: `hf:OWNER/NAME?config=hi_in&split=train&revision=main`.

`datasets` says which files belong to a configuration and a split. Parquet files and folders of
audio are downloaded as they are. Rows of other formats are streamed and written as Parquet. What
the Hub converted itself is used for a data set that has only a script, which `datasets` no longer
runs.

HF_TOKEN lets a private or gated data set be read, HF_ENDPOINT names another server.
"""

import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl

from lorajob.errors import SetupError, UsageError, causes, first_line, without_answer
from lorajob.storage.store import CHUNK_BYTES, Check, StoreError

SCHEME = "hf:"
CONVERTED = "refs/convert/parquet"  # the branch in which the Hub keeps its own conversion
ROWS = 256  # in a row group
PARAMETERS = ("config", "split", "revision")
AUDIO_FOLDER = "audiofolder"
NO_HUB = "what answers is not the Hub, but perhaps a proxy or a page for a login"
_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubCorpus:
    """What a url of this scheme names. Without `splits`, all are read."""

    name: str
    config: str | None = None
    splits: tuple[str, ...] = ()
    revision: str | None = None


def parse(url: str, parameters: Sequence[str] = PARAMETERS) -> HubCorpus:
    """The parts of a url. Raises UsageError if it is malformed."""
    name, _, query = url.removeprefix(SCHEME).partition("?")
    name = name.strip("/")
    values = dict(parse_qsl(query, keep_blank_values=True))
    wrong = [key for key in values if key not in parameters]
    if not _NAME.fullmatch(name) or wrong or (query and not values):
        what = f"unknown parameter {wrong[0]}" if wrong else "no data set of the Hub"
        raise UsageError(
            f"corpus: {url}: {what}; write hf:OWNER/NAME?config=hi_in&split=train"
            f" ({', '.join(parameters[:-1])} and {parameters[-1]} may be left out)"
        )
    splits = tuple(it for it in re.split("[,+]", values.get("split", "")) if it)
    return HubCorpus(name, values.get("config") or None, splits, values.get("revision") or None)


def check(url: str) -> None:
    """Raise UsageError if the data set is missing, private or gated, or lacks what `url` names.

    Its card lists configurations and splits, if its author wrote them. StoreError without the Hub.
    """
    corpus = parse(url)
    about = card(info(corpus))
    configs = _configs(about)
    if corpus.config and configs and corpus.config not in configs:
        raise UsageError(
            f"corpus: hf:{corpus.name} has no config {corpus.config}; its configs:"
            f" {', '.join(configs)}"
        )
    has_default = "default" in configs or any(it.get("default") for it in configs.values())
    if not corpus.config and len(configs) > 1 and not has_default:
        raise UsageError(
            f"corpus: hf:{corpus.name} has several configs; write hf:{corpus.name}?config="
            f" and one of {', '.join(configs)}"
        )
    splits = data_files(about, corpus.config)
    if splits and (missing := [it for it in corpus.splits if it not in splits]):
        raise no_split(corpus, missing, splits)


def card(info: Any) -> dict[str, Any]:
    """What the author of a data set wrote about it; empty without a card."""
    found: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}
    return found


def _configs(card: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    listed = card.get("configs")
    found = [it for it in listed if isinstance(it, dict)] if isinstance(listed, list) else []
    return {str(it["config_name"]): it for it in found if "config_name" in it}


def data_files(card: Mapping[str, Any], config: str | None) -> dict[str, list[str]]:
    """Split -> the patterns of its files, if the card lists them by split; else empty."""
    configs = _configs(card)
    own = configs.get(config or "default")
    if own is None and not config:
        own = next((it for it in configs.values() if it.get("default") or len(configs) == 1), None)
    listed = (own or {}).get("data_files")
    found: dict[str, list[str]] = {}
    for it in listed if isinstance(listed, list) else ():
        if not isinstance(it, dict) or "split" not in it:
            return {}
        paths = it.get("path")
        given = paths if isinstance(paths, list) else [paths]
        found[str(it["split"])] = [path for path in given if isinstance(path, str)]
    return found


def version(url: str) -> str:
    """The commit of the data set."""
    return str(info(parse(url)).sha)


def no_split(corpus: HubCorpus, missing: Iterable[str], splits: Iterable[str]) -> UsageError:
    """The error for splits that a data set does not have."""
    have = ", ".join(splits) or "none"
    return UsageError(
        f"corpus: hf:{corpus.name} has no split {', '.join(missing)}; its splits: {have}"
    )


def info(corpus: HubCorpus) -> Any:
    """What the Hub says of a data set. Raises UsageError or StoreError."""
    from huggingface_hub import HfApi

    with _errors(corpus):
        api = HfApi(library_name="lorajob")
        found = api.dataset_info(corpus.name, revision=corpus.revision, timeout=20)
        if found.gated:
            api.auth_check(corpus.name, repo_type="dataset")
        return found


def download(url: str, folder: Path, check: Check) -> None:
    """Fetch the data set into `folder`, in a layout that a reader knows.

    `check` is called often. Raises UsageError, or StoreError if the Hub is unavailable.
    """
    corpus = parse(url)
    shutil.rmtree(folder)
    folder.mkdir()
    with _errors(corpus):
        builder = _builder(corpus)
        files = _files(corpus, builder)
        kind = builder.__class__.__module__
        if all(name.endswith(".parquet") for names in files.values() for name in names):
            for split, names in files.items():
                for number, name in enumerate(names):
                    _copy(name, folder / f"{split}-{number:05d}.parquet", check)
        elif AUDIO_FOLDER in kind:
            for name in dict.fromkeys(name for names in files.values() for name in names):
                _copy(name, folder / _inner(name), check)
        else:
            for split in files:
                _write_rows(builder.as_streaming_dataset(split), folder, split, check)


def column_texts(url: str, names: Sequence[str]) -> Iterator[str]:
    """The texts of the first column of `names` that a data set has, by their rows.

    Raises UsageError without such a column, and StoreError.
    """
    corpus = parse(url)
    with _errors(corpus):
        builder = _builder(corpus)
        for split in _files(corpus, builder):
            rows = builder.as_streaming_dataset(split)
            has = list(rows.features or next(iter(rows), {}))
            name = next((it for it in names if it in has), None)
            if name is None:
                raise UsageError(
                    f"corpus: hf:{corpus.name} has no column {' or '.join(names)}; its columns: "
                    f"{', '.join(has)}; column= names one"
                )
            for row in rows.select_columns([name]):
                text = "" if row[name] is None else row[name]
                if not isinstance(text, str | int | float):
                    raise UsageError(
                        f"corpus: hf:{corpus.name}: column {name} has no texts, but values such as "
                        f"{str(text)[:40]}; column= names another one"
                    )
                yield str(text)


def _builder(corpus: HubCorpus) -> Any:
    import datasets

    try:
        return datasets.load_dataset_builder(corpus.name, corpus.config, revision=corpus.revision)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error) or corpus.revision:
            raise
        log.info("%s has only a script; the Hub's own conversion is read", corpus.name)
        return datasets.load_dataset_builder(corpus.name, corpus.config, revision=CONVERTED)


def _files(corpus: HubCorpus, builder: Any) -> dict[str, list[str]]:
    """Split -> urls of its files."""
    found = {str(split): list(names) for split, names in (builder.config.data_files or {}).items()}
    missing = [split for split in corpus.splits if split not in found]
    if missing or not found:
        raise no_split(corpus, missing, found)
    return {split: found[split] for split in corpus.splits or found}


def _copy(url: str, target: Path, check: Check) -> None:
    from huggingface_hub import HfFileSystem

    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        HfFileSystem().open(url, "rb", block_size=CHUNK_BYTES) as source,
        target.open("wb") as file,
    ):
        while chunk := source.read(CHUNK_BYTES):
            check()
            file.write(chunk)
        size = source.size
    if target.stat().st_size != size:
        raise StoreError(f"{url}: {target.stat().st_size} bytes came instead of {size}")


def _inner(url: str) -> Path:
    """The path of a file in its repository, from `hf://datasets/OWNER/NAME@REVISION/PATH`."""
    _, _, rest = url.partition("@")
    parts = PurePosixPath(rest).parts[1:]
    if not parts or ".." in parts:
        raise UsageError(f"corpus: {url} is not a file of a data set")
    return Path(*parts)


def _write_rows(rows: Any, folder: Path, split: str, check: Check) -> None:
    """Write the rows of a split as a Parquet file, audio as it is."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Audio):
            rows = rows.cast_column(name, datasets.Audio(decode=False))
    writer = None
    try:
        for batch in _batches(rows, check):
            table = pa.Table.from_pylist(batch, schema=writer.schema if writer else None)
            if writer is None:
                writer = pq.ParquetWriter(folder / f"{split}-00000.parquet", table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _batches(rows: Iterable[dict[str, object]], check: Check) -> Iterator[list[dict[str, object]]]:
    batch: list[dict[str, object]] = []
    for row in rows:
        check()
        batch.append(row)
        if len(batch) == ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _errors(corpus: HubCorpus) -> Iterator[None]:
    """Errors of the Hub and of `datasets`, in one line each."""
    from huggingface_hub import errors

    name = f"corpus: hf:{corpus.name}"
    try:
        yield
    except errors.GatedRepoError:
        raise UsageError(_gated(corpus)) from None
    except errors.RepositoryNotFoundError:
        raise UsageError(
            f"{name} does not exist, or is private: correct the name, or set HF_TOKEN to a token"
            " that may read it"
        ) from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"{name} has no revision {corpus.revision}") from None
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled) as error:
        raise StoreError(f"{name}: the Hub did not deliver it: {first_line(error)}") from None
    except (ConnectionError, TimeoutError) as error:
        raise StoreError(f"{name}: the Hub is unavailable: {first_line(error)}") from None
    except ImportError as error:
        raise SetupError(f"{name} needs another package: {first_line(error)}") from None
    except (FileNotFoundError, ValueError, RuntimeError, NotImplementedError) as error:
        if "gated" in str(error):
            raise UsageError(_gated(corpus)) from None
        if any(isinstance(cause, JSONDecodeError) for cause in causes(error)):
            raise StoreError(f"{name}: {NO_HUB}") from None
        if any(map(without_answer, causes(error))):
            raise StoreError(f"{name}: the Hub is unavailable: {first_line(error)}") from None
        raise UsageError(f"{name} cannot be read: {' '.join(str(error).split())}") from None
    except Exception as error:
        # The errors of its HTTP library, whose name differs between versions.
        if not type(error).__module__.startswith("httpx"):
            raise
        raise StoreError(f"{name}: the Hub is unavailable: {first_line(error)}") from None


def _gated(corpus: HubCorpus) -> str:
    return (
        f"corpus: hf:{corpus.name} is gated: accept its terms at"
        f" https://huggingface.co/datasets/{corpus.name} and set HF_TOKEN"
    )
