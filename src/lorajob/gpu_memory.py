"""Estimate the least GPU memory that a job needs, before anything is loaded.

The estimate only decides which workers a job waits for. How many windows fit into a pass is
measured on the GPU (training/forecast.py). The weights are counted. The memory of CUDA and of a
window's activations is estimated as for a transformer in 16 bit, and was not compared with a
GPU. By this estimate large-v2 in 8 bit needs 8 GB, which agrees with the public recipe.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from lorajob.spec import JobSpec, TrainConfig

GB = 1e9
CUDA_GB = 1.5  # the driver's context and kernels
DECODED_WINDOWS = 4  # in a batch; with fewer a GPU decodes slowly. Evaluation halves larger ones
USEFUL_WINDOWS = 2  # in a pass; with fewer the GPU is idle between its operations
WEIGHT_BYTES = {"8bit": 1.1, "auto": 1.1, "4bit": 0.6, "none": 2.0}  # for each parameter
ADAPTER_BYTES = 16  # for each trained parameter: itself, its gradient and two moments
ACTIVATION_BYTES = 34  # for each layer, position and channel
CHECKPOINTED = 8  # gradient checkpointing divides the memory of activations by this
POSITIONS = 1500  # encoder positions in 30 s


@dataclass(frozen=True)
class Size:
    """Size of a Whisper: parameters, width, and layers of encoder and decoder together."""

    parameters: float
    width: int
    layers: int
    decoder_layers: int


SIZES = {
    "tiny": Size(39e6, 384, 8, 4),
    "base": Size(74e6, 512, 12, 6),
    "small": Size(244e6, 768, 24, 12),
    "medium": Size(769e6, 1024, 48, 24),
    "turbo": Size(809e6, 1280, 36, 4),
    "large": Size(1550e6, 1280, 64, 32),
}


def job_gb(spec: JobSpec) -> float:
    """GPU memory, in GB, that training and evaluation need; 0 if the size is unknown.

    Evaluation keeps 16-bit weights, and keys and values of each window for each decoder layer. It
    uses float32 where that fits.
    """
    size = _size(spec.base_model)
    if size is None:
        return 0.0
    keys = DECODED_WINDOWS * 2 * size.decoder_layers * POSITIONS * size.width
    evaluation = (2 * size.parameters + 2 * keys) / GB + CUDA_GB
    return max(training_gb(spec), evaluation)


def training_gb(spec: JobSpec) -> float:
    """GPU memory, in GB, of a training with one window in a pass; 0 if the size is unknown."""
    size = _size(spec.base_model)
    if size is None:
        return 0.0
    return _needed_gb(size, spec.train, spec.train.quantization, windows=1)


def fitting_quantization(folder: Path, train: TrainConfig, free_gb: float) -> str:
    """The first of `none`, `8bit` and `4bit` with which the base model in `folder` and
    USEFUL_WINDOWS fit into `free_gb`.

    It is `4bit` if nothing fits, and `8bit` for a model of unknown size.
    """
    size = _size(str(folder))
    if size is None:
        return "8bit"
    for kind in ("none", "8bit"):
        if _needed_gb(size, train, kind, USEFUL_WINDOWS) <= free_gb:
            return kind
    return "4bit"


def _needed_gb(size: "Size", train: TrainConfig, quantization: str, windows: int) -> float:
    weights = size.parameters * WEIGHT_BYTES[quantization]
    if quantization == "none" and train.precision == "float32":
        weights *= 2
    # Ten linear layers in each layer, each with the matrices A and B: 20.
    adapter = ADAPTER_BYTES * train.rank * size.layers * size.width * 20
    activations: float = ACTIVATION_BYTES * size.layers * POSITIONS * size.width * windows
    if train.gradient_checkpointing:
        activations /= CHECKPOINTED
    return (weights + adapter + activations) / GB + CUDA_GB


def _size(base_model: str) -> Size | None:
    config = Path(base_model) / "config.json"
    if config.is_file() and (size := _size_of_config(config)) is not None:
        return size
    name = Path(base_model).name.lower().replace("large-v3-turbo", "turbo")  # without its owner
    found = re.search(rf"(?<![a-z])(?:{'|'.join(SIZES)})", name)
    return SIZES[found.group()] if found else None


def _size_of_config(path: Path) -> Size | None:
    """The known size with this config's width; None if it is not a transformers Whisper."""
    try:
        values = json.loads(path.read_bytes())
        width = values["d_model"]
        layers = values["encoder_layers"] + values["decoder_layers"]
    except (ValueError, LookupError, TypeError, OSError):
        return None
    same = [size for size in SIZES.values() if size.width == width]
    return min(same, key=lambda size: abs(size.layers - layers), default=None)
