"""The weights of a base: names, shapes and types by their headers, and values that are numbers."""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorajob.errors import ModelError, first_line
from lorajob.whisper.base_settings import read_json

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
MAX_HEADER_BYTES = 100_000_000
LFS_POINTER = b"version "  # its first 8 bytes
# Bits of a number's exponent: if all are set, it is an infinity or NaN.
EXPONENTS = {
    "F16": ("uint16", 0x7C00),
    "BF16": ("uint16", 0x7F80),
    "F32": ("uint32", 0x7F800000),
    "F64": ("uint64", 0x7FF0000000000000),
}
PIECE = 4_000_000  # numbers looked at at once


@dataclass(frozen=True)
class ModelDimensions:
    """The sizes of a Whisper, named as in the config.json of transformers."""

    vocab_size: int
    d_model: int
    num_mel_bins: int
    max_source_positions: int
    max_target_positions: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    kind: str
    begin: int
    """The place of its first byte in the file."""
    end: int


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a base; none if its weights are pickled. Raises ModelError."""
    single, index = (folder / name for name in WEIGHTS)
    for path in (single, index):
        if path.is_symlink() and not path.exists():
            raise ModelError(f"base_model: {path} is a link to a file that is missing")
        if path.is_dir():
            raise ModelError(f"base_model: {path} is a folder")
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"base_model: {index} has no weight_map")
    files = []
    for name in dict.fromkeys(map(str, names.values())):
        if "/" in name or "\0" in name or not (folder / name).is_file():
            raise ModelError(f"base_model: {folder} lacks {name!r}, which {index.name} names")
        files.append(folder / name)
    for path in files:
        wrong = [name for name in _header(path) if names.get(name) != path.name]
        if wrong:
            raise ModelError(f"base_model: {index} does not say that {wrong[0]} is in {path.name}")
    return files


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Name -> shape of the weights in safetensors files; None for pickled weights, which are not
    opened here. Raises ModelError for a damaged or incomplete file.
    """
    files = weight_files(folder)
    if not files:
        return None
    return {name: it.shape for path in files for name, it in _header(path).items()}


def _header(path: Path) -> dict[str, _Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            start = file.read(8)
            if start == LFS_POINTER:
                raise ValueError("it is a pointer of Git LFS; run `git lfs pull` in its folder")
            (size,) = struct.unpack("<Q", start)
            if size > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        end = max((it["data_offsets"][1] for it in header.values()), default=0)
        if path.stat().st_size != 8 + size + end:
            raise ValueError(f"{path.stat().st_size} bytes instead of {8 + size + end}")
        # It compares types, shapes and places with each other, as loading does.
        with safe_open(str(path), framework="numpy") as opened:
            marked = (opened.metadata() or {}).get("format", "pt")
        found = {
            name: _Tensor(
                tuple(it["shape"]), it["dtype"], *(8 + size + place for place in it["data_offsets"])
            )
            for name, it in header.items()
        }
    except (
        OSError,
        RecursionError,
        struct.error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        SafetensorError,
    ) as error:
        reason = first_line(error)
        raise ModelError(f"base_model: {path} is damaged or incomplete: {reason}") from None
    for name, it in found.items():
        if it.kind not in EXPONENTS:
            raise ModelError(
                f"base_model: {path} has weights {name} of type {it.kind}; take the model in 16 or "
                "32 bits"
            )
    if marked != "pt":
        raise ModelError(f"base_model: {path} holds weights of {marked!r}; save them with PyTorch")
    return found


def check_weights(
    folder: Path, dimensions: ModelDimensions, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise ModelError unless the weights are those of a Whisper with these sizes."""
    found = {name.removeprefix("model."): shape for name, shape in shapes.items()}
    expected = set()
    for name, shape in expected_shapes(dimensions):
        expected.add(name)
        if name not in found:
            raise ModelError(f"base_model: {folder} has no weights {name}, which config.json needs")
        if found[name] != shape:
            raise ModelError(
                f"base_model: {folder} has weights {name} of shape {list(found[name])}; "
                f"config.json says {list(shape)}"
            )
    for name in found:
        if name not in expected and (".layers." in name or "lora_" in name):
            raise ModelError(
                f"base_model: {folder} has weights {name}, which config.json does not know; they "
                "would be left out"
            )


def expected_shapes(dimensions: ModelDimensions) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of the weights of a Whisper with these dimensions."""
    width = dimensions.d_model
    for name, bins in (("conv1", dimensions.num_mel_bins), ("conv2", width)):
        yield f"encoder.{name}.weight", (width, bins, 3)
        yield f"encoder.{name}.bias", (width,)
    yield "encoder.embed_positions.weight", (dimensions.max_source_positions, width)
    yield "decoder.embed_positions.weight", (dimensions.max_target_positions, width)
    yield "decoder.embed_tokens.weight", (dimensions.vocab_size, width)
    encoder = dimensions.encoder_layers, dimensions.encoder_ffn_dim
    decoder = dimensions.decoder_layers, dimensions.decoder_ffn_dim
    for side, attentions, (layers, inner) in (
        ("encoder", ["self_attn"], encoder),
        ("decoder", ["self_attn", "encoder_attn"], decoder),
    ):
        for number in range(layers):
            layer = f"{side}.layers.{number}"
            for attention in attentions:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    yield f"{layer}.{attention}.{part}.weight", (width, width)
                    if part != "k_proj":  # Whisper's keys have no bias
                        yield f"{layer}.{attention}.{part}.bias", (width,)
                yield from _norm(f"{layer}.{attention}_layer_norm", width)
            yield f"{layer}.fc1.weight", (inner, width)
            yield f"{layer}.fc1.bias", (inner,)
            yield f"{layer}.fc2.weight", (width, inner)
            yield f"{layer}.fc2.bias", (width,)
            yield from _norm(f"{layer}.final_layer_norm", width)
        yield from _norm(f"{side}.layer_norm", width)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def check_values(folder: Path) -> None:
    """Raise ModelError for weights that are infinite or not numbers. Reads all of them once.

    As `check_base`, it looks at nothing if config.json is empty.
    """
    import numpy as np  # not for those that look at the headers alone

    if not read_json(folder / "config.json"):
        return
    for path in weight_files(folder):
        for name, it in _header(path).items():
            kind, mask = EXPONENTS[it.kind]
            exponent = np.dtype(kind).type(mask)
            if it.end == it.begin:
                continue
            bits = np.memmap(
                path, dtype=np.uint8, mode="r", offset=it.begin, shape=(it.end - it.begin,)
            ).view(kind)
            for start in range(0, len(bits), PIECE):
                if ((bits[start : start + PIECE] & exponent) == exponent).any():
                    raise ModelError(
                        f"base_model: {path} has weights {name} that are infinite or not numbers; "
                        "it is damaged"
                    )
