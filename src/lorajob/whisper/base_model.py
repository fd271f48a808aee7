"""Finds or makes the local folder of a base model, in transformers' format."""

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lorajob.demo.packaged import PACKAGED_NAME, SHA256, join_packaged_model
from lorajob.errors import ModelError
from lorajob.job.jobdir import hash_file
from lorajob.storage import places
from lorajob.whisper.ct2_import import import_ctranslate2

NEEDED = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
HUB_FILES = ["*.json", "*.safetensors", "*.txt"]

log = logging.getLogger(__name__)


def local_model(base_model: str, revision: str | None = None, download: bool = True) -> Path:
    """The local transformers folder of `base_model`.

    `base_model` is `demo/whisper-base`, a transformers folder, a CTranslate2 folder, or a Hub id.
    A conversion is made once and kept in `LORAJOB_HOME/models`. Only safetensors weights are
    accepted, and a model's code is never run. `revision` is a commit, tag or branch of a repository
    on the Hub. Without `download` only what this machine has is found. Raises ModelError.
    """
    if base_model == PACKAGED_NAME:
        return _made_once(f"whisper-base-{SHA256[:12]}", _make_packaged)
    folder = Path(base_model).expanduser()
    if not folder.is_dir():
        return _from_hub(base_model, revision, download)
    if (folder / "model.bin").is_file() and not (folder / "model.safetensors").is_file():
        digest = hash_file(folder / "model.bin")
        return _made_once(f"ct2-{digest[:12]}", lambda target: import_ctranslate2(folder, target))
    return _checked(folder)


def _checked(folder: Path) -> Path:
    missing = [name for name in NEEDED if name not in WEIGHTS and not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in WEIGHTS):
        missing.append("model.safetensors")
    if missing:
        raise ModelError(
            f"base_model: {folder} is not a Whisper folder: {', '.join(missing)} missing"
        )
    return folder


def _from_hub(name: str, revision: str | None, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=HUB_FILES, local_files_only=not download
        )
        return _checked(Path(found))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"base_model: {name!r} is not a folder here and could not be downloaded from the Hub: "
            f"{reason}"
        ) from None


def _make_packaged(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        import_ctranslate2(join_packaged_model(Path(scratch)), target)


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` in `LORAJOB_HOME/models`, made if it is missing.

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
