"""Base models in a store, for machines that share no disk with the one that submits.

    STORE/KEY/base.json      the model's name, its files with their hashes, when it was last wanted
    STORE/KEY/files/NAME     the files

KEY is a hash of the names and contents of the files, so equal models are uploaded once. A spec
names such a model by its url, STORE/KEY/NAME-OF-THE-MODEL. Each machine fetches it once, to
LORAJOB_HOME/models/stored-KEY, and compares all hashes.
"""

import fcntl
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lorajob.errors import ModelError, UsageError
from lorajob.storage import places
from lorajob.storage.folders import locked, remove_folder
from lorajob.storage.hashes import file_hash
from lorajob.storage.store import Check, DamageError, Store, StoreError, unhurried
from lorajob.storage.urls import is_named, is_url, public

BASES = ".bases"  # a folder in the store that has no job's name
ENTRY, FILES = "base.json", "files"
RENEWED_SECONDS = 3600  # an entry is written again after that time, not with each submission
PREFIX = "stored-"  # of the folders in LORAJOB_HOME/models
# All that a Whisper in transformers' or CTranslate2's format consists of.
SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "normalizer.json",
    "vocab.json",
    "merges.txt",
)
SAFE = ("*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
CTRANSLATE2 = ("model.bin", "vocabulary.json", "vocabulary.txt")
_URL = re.compile(rf"(?P<store>.+/{re.escape(BASES)})/(?P<key>[0-9a-f]{{64}})/(?P<name>[^?#]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger(__name__)


class StoredFile(BaseModel):
    """A file of a base model in the store."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    bytes: int


class StoredBase(BaseModel):
    """The entry of a base model in the store, base.json."""

    model_config = ConfigDict(frozen=True)

    name: str
    files: dict[str, StoredFile]
    wanted_at: float  # when a job with it was last submitted, in seconds since the epoch

    @property
    def key(self) -> str:
        return _key({name: it.sha256 for name, it in self.files.items()})


def is_stored_base(base_model: str) -> bool:
    """Whether a spec's `base_model` is the url of a base model in a store."""
    return is_url(base_model) and not is_named(base_model) and bool(_URL.fullmatch(base_model))


def key_of(base_model: str) -> str | None:
    """The hash that the url of a stored base model has; None for any other base model."""
    found = _URL.fullmatch(base_model) if is_stored_base(base_model) else None
    return found["key"] if found else None


def bring_base(folder: Path, store: Store) -> str:
    """Upload a base model to the store, unless it is there already. Returns its url.

    Only the files of a Whisper are uploaded. Raises UsageError for a link out of the folder,
    StoreError if the store is unavailable.
    """
    paths = {path.name: path for path in _files_of(folder)}
    for path in paths.values():
        _refuse_escape(folder, path)
    files = {
        name: StoredFile(sha256=file_hash(path), bytes=path.stat().st_size)
        for name, path in paths.items()
    }
    base = StoredBase(name=_name(folder), files=files, wanted_at=time.time())
    there = store.names(base.key)
    earlier = _entry(store, base.key) if f"{base.key}/{ENTRY}" in there else None
    if earlier is not None:  # the url of a model does not depend on who submits it
        base = base.model_copy(update={"name": earlier.name})
    missing = [name for name in files if there.get(_file(base.key, name)) != files[name].bytes]
    if missing:
        size = sum(files[name].bytes for name in missing) // 1_000_000
        # A warning, because the waiting command shows no lower level.
        logger.warning("base model: %s is uploaded to %s, %d MB", folder, store.url, size)
    for name in missing:
        store.upload(paths[name], _file(base.key, name))
        if store.hash(_file(base.key, name)) != files[name].sha256:
            store.remove(_file(base.key, name))
            raise StoreError(
                f"base_model: {paths[name]} changed while it was uploaded, or {public(store.url)} "
                "does not keep what it is sent; submit again"
            )
    if missing or earlier is None or _is_old(earlier):
        _write(store, base)
    return f"{store.url}/{base.key}/{base.name}"


def want_again(base_model: str, store: Store) -> str:
    """Note that a job with a stored base model is submitted. Returns its url in this store.

    Raises UsageError if the store has no such model.
    """
    found = _entry(store, key_of(base_model) or "")
    if found is None:
        raise UsageError(
            f"base_model: {public(base_model)} is not in {public(store.url)}; give the folder of "
            "the model, which brings it there"
        )
    if _is_old(found):
        _write(store, found.model_copy(update={"wanted_at": time.time()}))
    return f"{store.url}/{found.key}/{found.name}"


def stored_folder(base_model: str) -> Path | None:
    """The folder of a stored base model on this machine; None if it was not fetched.

    Raises ModelError if its files are not those that the url names.
    """
    folder = _place(base_model)
    try:
        base = StoredBase.model_validate_json((folder / ENTRY).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise _other(base_model, folder / ENTRY) from None
    inside = folder / FILES / base.name
    for name, it in base.files.items():
        if not (inside / name).is_file() or file_hash(inside / name) != it.sha256:
            raise _other(base_model, inside / name)
    more = {path.name for path in _files_of(inside)} - set(base.files)
    if more or base.key != key_of(base_model):
        raise _other(base_model, inside / min(more, default=""))
    return inside


def fetch_base(base_model: str, store: Store | None = None, check: Check = unhurried) -> Path:
    """Download a stored base model, if this machine does not have it. Returns its folder.

    `store` is the store of this service; by default that of the url. Other processes that want the
    model wait. A download that was cut off goes on with the next file. Raises DamageError if the
    store has other files than the url names, StoreError if it is unavailable.
    """
    found = _URL.fullmatch(base_model)
    if found is None:
        raise ModelError(f"base_model: {public(base_model)} is not a base model in a store")
    store = Store(found["store"]) if store is None else store
    folder = _place(base_model)
    with locked(folder.with_name(f".{folder.name}.lock"), fcntl.LOCK_EX, check):
        try:
            if (here := stored_folder(base_model)) is not None:
                return here
        except ModelError as error:
            logger.warning("%s: it is fetched again", error)
            remove_folder(folder)
        return _download(store, found["key"], folder, check)


def wanted_at(store: Store, key: str) -> float:
    """When a job with a base model was last submitted, in seconds since the epoch; 0 if unknown."""
    try:
        found = _entry(store, key)
    except DamageError:
        return 0.0
    return 0.0 if found is None else found.wanted_at


def _download(store: Store, key: str, folder: Path, check: Check) -> Path:
    base = _entry(store, key)
    if base is None:
        raise DamageError(
            f"base_model: {public(store.url)}/{key} is missing; submit the job again with the "
            "folder of its base model"
        )
    part = folder.with_name(f".{folder.name}.part")
    for name, it in base.files.items():
        path = part / FILES / base.name / name
        if path.is_file() and file_hash(path) == it.sha256:
            continue
        if store.download(_file(key, name), path, check) != it.sha256:
            path.unlink(missing_ok=True)
            raise DamageError(
                f"base_model: {public(store.url)}/{_file(key, name)} is not the file that the "
                "model's hash names; delete it there, and submit again with the model's folder"
            )
    (part / ENTRY).write_text(base.model_dump_json(indent=2), "utf-8")
    if folder.exists():  # without an entry
        remove_folder(folder)
    part.rename(folder)
    logger.info("base model: %s/%s is in %s", public(store.url), key, folder)
    return folder / FILES / base.name


def _entry(store: Store, key: str) -> StoredBase | None:
    """The entry of a model; None if the store has none. Raises DamageError if it is another's."""
    data = store.read(f"{key}/{ENTRY}")
    if data is None:
        return None
    damaged = DamageError(
        f"base_model: {public(store.url)}/{key}/{ENTRY} is damaged; delete that folder, and submit "
        "again with the model's folder"
    )
    try:
        base = StoredBase.model_validate_json(data)
    except ValidationError:
        raise damaged from None
    # Names become paths of this machine.
    parts = base.name.split("/")
    plain = all(part == _safe(part) for part in parts) and len(parts) in (1, 3)
    if base.key != key or not plain or any("/" in it or it in ("", "..") for it in base.files):
        raise damaged
    return base


def _is_old(base: StoredBase) -> bool:
    return time.time() - base.wanted_at > RENEWED_SECONDS


def _write(store: Store, base: StoredBase) -> None:
    store.write_json(f"{base.key}/{ENTRY}", base.model_dump(mode="json"))


def _key(hashes: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _file(key: str, name: str) -> str:
    return f"{key}/{FILES}/{name}"


def _place(base_model: str) -> Path:
    return places.models() / f"{PREFIX}{key_of(base_model)}"


def _name(folder: Path) -> str:
    """The name of a model: that of its folder, or of the Hub's cache, which tells the commit."""
    parts = folder.parts[-3:]
    if len(parts) == 3 and parts[1] == "snapshots" and _COMMIT.fullmatch(parts[2]):
        parts = (_safe(parts[0]), *parts[1:])
        return "/".join(parts)
    return _safe(folder.name)


def _safe(name: str) -> str:
    """The name with letters alone that a url and a path may have."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[:100].lstrip(".") or "model"


def _files_of(folder: Path) -> Iterator[Path]:
    """The files of a model's folder that a Whisper consists of."""
    if (folder / "model.bin").is_file() and not (folder / "model.safetensors").is_file():
        weights: tuple[str, ...] = CTRANSLATE2
    else:
        weights = SAFE if any(folder.glob("*.safetensors")) else PICKLED
    for pattern in (*SETTINGS, *weights):
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def _refuse_escape(folder: Path, path: Path) -> None:
    """Raise UsageError for a link out of the folder. The Hub's cache links to its own blobs."""
    inside = [folder.resolve()]
    if folder.parent.name == "snapshots":
        inside.append(folder.parent.parent.resolve() / "blobs")
    if not any(path.resolve().is_relative_to(it) for it in inside):
        raise UsageError(
            f"base_model: {path} is a link out of its folder, and only the folder is uploaded; put "
            "a copy of the file there"
        )


def _other(base_model: str, path: Path) -> ModelError:
    return ModelError(
        f"base_model: {public(base_model)} is another model on this machine: {path} is not what "
        f"its hash names; remove {_place(base_model)}, and it is fetched again"
    )
