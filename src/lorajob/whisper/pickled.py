"""Reads pickled weights of older models, without running code from the file."""

import json
import pickle
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lorajob.errors import ModelError, first_line

TIED = "proj_out.weight"  # the same tensor as the decoder's embeddings


def to_safetensors(source: Path, target: Path) -> None:
    """Write the weights in the pytorch_model*.bin of `source` to the safetensors file `target`.

    Raises ModelError for a damaged file, and for one that holds anything but tensors.
    """
    weights: dict[str, Tensor] = {}
    for path in _files(source):
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            weights |= {str(name): tensor for name, tensor in found.items()}
        except pickle.UnpicklingError:
            # torch's own message says how to run the code in the file all the same.
            raise ModelError(
                f"base_model: {path} does not load safely: it holds more than weights, or is "
                "damaged; take the model with safetensors"
            ) from None
        except Exception as error:  # torch raises all kinds for damaged files
            reason = first_line(error)
            raise ModelError(f"base_model: {path} does not load safely: {reason}") from None
    weights.pop(TIED, None)
    if not weights or not all(map(_is_plain, weights.values())):
        raise ModelError(f"base_model: {source}/pytorch_model.bin holds no weights of a model")
    plain = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    save_file(plain, target, metadata={"format": "pt"})


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _files(source: Path) -> list[Path]:
    single, index = source / "pytorch_model.bin", source / "pytorch_model.bin.index.json"
    if single.is_file():
        return [single]
    try:
        names = sorted({str(it) for it in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"base_model: {index} is damaged") from None
    if not names:
        raise ModelError(f"base_model: {index} names no files")
    files = [source / Path(name).name for name in names]
    for path in files:
        if not path.is_file():
            raise ModelError(f"base_model: {path} is missing")
    return files
