"""Finds or makes the local folder of a base model, in transformers' format."""

import hashlib
import importlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from lorajob.demo.packaged import PACKAGED_NAME, SHA256, join_packaged_model
from lorajob.errors import ModelError, causes, says_full
from lorajob.job.jobdir import hash_file, write_json
from lorajob.storage import places
from lorajob.storage.bases import fetch_base, is_stored_base, stored_folder
from lorajob.storage.hashes import file_hash, settled_stamp
from lorajob.storage.hub import download_error
from lorajob.storage.urls import public
from lorajob.whisper.base_check import check_base
from lorajob.whisper.base_repair import complete, is_complete
from lorajob.whisper.base_weights import WEIGHTS

SOURCE = "source.json"  # in a completed folder: what it was made from
REPAIR_VERSION = 3  # of the folders that `complete` makes: raise it with every change of them

HUB_FILES = ["*.json", "*.safetensors", "*.txt"]
PICKLED_FILES = ["pytorch_model*.bin"]

log = logging.getLogger(__name__)


def local_model(base_model: str, revision: str | None = None, download: bool = True) -> Path:
    """The local transformers folder of `base_model`.

    `base_model` is `demo/whisper-base`, a transformers folder, a CTranslate2 folder, the url of
    such a folder in a store (`lorajob.storage.bases`), or a Hub id. A conversion is made once and
    kept in `LORAJOB_HOME/models`. So is a complete folder of a model that lacks files, as
    transformers 5 or old versions save it, or whose config.json names another start token than the
    tokenizer's. Pickled weights are read without running code. A model's own
    code is never run. `revision` is a commit, tag or branch of a repository on the Hub. Without
    `download` only what this machine has is found.

    Raises ModelError, NetworkError if the Hub cannot be reached, and StoreError for the store.
    """
    if base_model == PACKAGED_NAME:
        return made_once(f"whisper-base-{SHA256[:12]}", _make_packaged)
    stored = is_stored_base(base_model)
    folder = _from_store(base_model, download) if stored else Path(base_model).expanduser()
    if not folder.is_dir():
        return _from_hub(base_model, revision, download)
    if (folder / "model.bin").is_file() and not (folder / "model.safetensors").is_file():
        parts = [file_hash(folder / "model.bin")]
        parts += [hash_file(path) for path in sorted(folder.glob("*.json"))]
        digest = hashlib.sha256(" ".join(parts).encode()).hexdigest()
        return made_once(f"ct2-{digest[:12]}", lambda target: _import_ctranslate2(folder, target))
    return _checked(folder)


def _checked(folder: Path) -> Path:
    """The folder, or a complete one made from it, if it has what a base needs.

    A stage asks for its base more than once. The check takes about half a second, so a process
    repeats it only if a file of the folder has changed.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stamps = {path.name: settled_stamp(path) for path in files}
    if None in stamps.values():
        return _check(folder)
    found = _check_once(folder, json.dumps(stamps))
    return found if found.is_dir() else _check(folder)


@lru_cache(maxsize=4)
def _check_once(folder: Path, stamps: str) -> Path:
    return _check(folder)


def _check(folder: Path) -> Path:
    check_base(folder)
    if is_complete(folder):
        return folder
    small = [path for path in folder.iterdir() if path.suffix in (".json", ".txt")]
    hashes = [hash_file(path) for path in sorted(small)]
    hashes += [file_hash(path) for path in sorted(folder.glob("pytorch_model*.bin"))]
    # The path belongs to the name, because weights are linked.
    key = hashlib.sha256(json.dumps([REPAIR_VERSION, str(folder.resolve()), hashes]).encode())
    name = f"completed-{key.hexdigest()[:12]}"

    def make(target: Path) -> None:
        complete(folder, target)
        commit = folder.name if folder.parent.name == "snapshots" else None
        write_json(target / SOURCE, {"folder": str(folder), "commit": commit})

    return made_once(name, make)


def _from_store(base_model: str, download: bool) -> Path:
    folder = fetch_base(base_model) if download else stored_folder(base_model)
    if folder is None:
        raise ModelError(f"base_model: {public(base_model)} is not on this machine")
    return folder


def _from_hub(name: str, revision: str | None, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=HUB_FILES, local_files_only=not download
        )
        folder = Path(found)
        if not any((folder / name).is_file() for name in WEIGHTS):
            found = snapshot_download(
                name,
                revision=revision,
                allow_patterns=HUB_FILES + PICKLED_FILES,
                local_files_only=not download,
            )
    except Exception as error:  # of any of the packages that speak to the Hub
        if any(says_full(cause) for cause in causes(error)):
            raise
        raise download_error(name, revision, error) from None
    return _checked(Path(found))


def _make_packaged(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        _import_ctranslate2(join_packaged_model(Path(scratch)), target)


def _import_ctranslate2(source: Path, target: Path) -> None:
    # It loads numpy, which takes a third of the start of a stage that is finished already.
    importlib.import_module("lorajob.whisper.ct2_import").import_ctranslate2(source, target)


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` in `LORAJOB_HOME/models`, made by `make` if it is missing.

    It is made under another name and then renamed, so it is never incomplete.
    """
    target = places.models() / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=target.parent))
    try:
        make(scratch)
        scratch.chmod(0o755)
        scratch.rename(target)
    except OSError:
        # If the folder exists now, another process has made it.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    log.info("%s is ready", target)
    return target
