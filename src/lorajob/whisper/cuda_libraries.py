"""Loads the CUDA libraries that CTranslate2 needs on a GPU, and a model in a type that fits it.

Its wheel opens cuBLAS of CUDA 12 and cuDNN 9 by name when it first computes, and brings neither.
torch may bring the cuBLAS of another CUDA. The extra `cuda` installs the one for CTranslate2. It
lies in a folder that the system's loader does not search, so it is loaded here before. A library
that is loaded already is found by its name.
"""

import ctypes
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from lorajob.errors import says_out_of_memory

# name -> folder in NVIDIA's packages, below site-packages
NEEDED = {"libcublas.so.12": "nvidia/cublas/lib", "libcudnn.so.9": "nvidia/cudnn/lib"}
SMALLER_TYPES = ("float16", "int8_float16")  # on a GPU that the wanted type does not fit

Model = TypeVar("Model")
log = logging.getLogger(__name__)


def load_cuda_libraries(
    places: Iterable[str] | None = None, load: Callable[[str], object] | None = None
) -> list[str]:
    """Load the libraries, from the system or from NVIDIA's packages. Returns the missing ones."""
    load = load or _load
    folders = [Path(place) for place in (sys.path if places is None else places)]
    missing = []
    for name, folder in NEEDED.items():
        for path in [name, *(str(place / folder / name) for place in folders)]:
            try:
                load(path)
                break
            except OSError:
                continue
        else:
            missing.append(name)
    return missing


def load_fitting(load: Callable[[str], Model], compute_type: str) -> tuple[Model, str]:
    """The model that `load` gives for a type of CTranslate2, and the type.

    It is a smaller type if the wanted one needs too much memory. Raises RuntimeError if none fits,
    and as `load` does.
    """
    for smaller in SMALLER_TYPES:
        try:
            return load(compute_type), compute_type
        except RuntimeError as error:
            if not says_out_of_memory(error):
                raise
        # Behind the except clause: its error may hold the model.
        log.warning("%s does not fit the GPU; %s is used", compute_type, smaller)
        compute_type = smaller
    return load(compute_type), compute_type


def expects_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether this machine has an NVIDIA GPU that is not hidden, whatever CTranslate2 sees.

    `devices` is the folder of the device files. Windows' Linux (WSL) has another one for all cards.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    wsl = (devices / "dxg").exists() and shutil.which("nvidia-smi") is not None
    return wsl or any(devices.glob("nvidia[0-9]*"))


def _load(path: str) -> object:
    return ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
