"""Converts a CTranslate2 Whisper to transformers' format. Needs only numpy.

`model.bin` (binary version 6) is a header and a list of named arrays. The names are those of
CTranslate2's WhisperSpec. The import undoes two things:

- q, k and v are stacked into one matrix: linear_0 of self-attention, and k and v in linear_1 of
  cross-attention.
- int8 and int16 rows are scaled by `weight_scale`.
"""

import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from lorajob.errors import ModelError
from lorajob.job.jobdir import write_json
from lorajob.whisper.base_check import MULTILINGUAL_VOCABULARY
from lorajob.whisper.base_tokenizer import TOKENIZER_CONFIG
from lorajob.whisper.base_weights import ModelDimensions

BINARY_VERSION = 6
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "bfloat16"}
MAX_NAME_BYTES = 1024
Arrays = dict[str, NDArray[Any]]


def import_ctranslate2(source: Path, target: Path) -> None:
    """Convert the CTranslate2 folder `source` to a transformers folder `target`.

    Raises ModelError if `source` is not a multilingual Whisper of a known binary version.
    """
    arrays = read_model_bin(source / "model.bin")
    weights = dict(_whisper_weights(arrays))
    dimensions = _dimensions(arrays)
    if dimensions.vocab_size < MULTILINGUAL_VOCABULARY:
        raise ModelError(f"base_model: {source} is an English-only Whisper; use a multilingual one")
    if not (source / "tokenizer.json").is_file():
        raise ModelError(f"base_model: {source} has no tokenizer.json")
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
    write_json(target / "config.json", _config(arrays, dimensions))
    write_json(target / "generation_config.json", _generation_config(source, dimensions))
    write_json(target / "tokenizer_config.json", TOKENIZER_CONFIG)
    write_json(target / "preprocessor_config.json", _preprocessor_config(dimensions.num_mel_bins))


def read_whisper(path: Path) -> tuple[dict[str, object], Arrays]:
    """The values of transformers' WhisperConfig, and its weights by name, of a model.bin.

    Raises ModelError as `read_model_bin` does.
    """
    arrays = read_model_bin(path)
    return _config(arrays, _dimensions(arrays)), dict(_whisper_weights(arrays))


def read_model_bin(path: Path) -> Arrays:
    """Name -> array of a CTranslate2 model.bin. Quantised arrays are scaled back to floats."""
    try:
        with path.open("rb") as file:
            arrays = dict(_read_arrays(file, path))
            aliases = dict(_read_aliases(file))
        arrays |= {name: arrays[same] for name, same in aliases.items()}
    except (struct.error, ValueError, KeyError) as error:
        raise ModelError(
            f"base_model: {path} is damaged or not a CTranslate2 model: {error}"
        ) from None
    return {
        name: _unscale(name, array, arrays)
        for name, array in arrays.items()
        if not name.endswith("_scale")
    }


def _read_arrays(file: BinaryIO, path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    (version,) = struct.unpack("<I", file.read(4))
    if version != BINARY_VERSION:
        raise ModelError(
            f"base_model: {path} has binary version {version}; version {BINARY_VERSION} is read"
        )
    name = _read_name(file)
    if name != "WhisperSpec":
        raise ModelError(f"base_model: {path} holds a {name}, not a Whisper")
    _revision, count = struct.unpack("<II", file.read(8))
    for _ in range(count):
        name = _read_name(file)
        (rank,) = struct.unpack("<B", file.read(1))
        shape = struct.unpack(f"<{rank}I", file.read(4 * rank))
        kind, size = struct.unpack("<BI", file.read(5))
        if kind not in DTYPES:
            raise ModelError(f"base_model: {path} has an array of unknown type {kind}")
        yield name, _array(file.read(size), kind).reshape(shape)


def _read_aliases(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Yield (name, name of the equal array). Arrays of the same bytes are stored once."""
    (count,) = struct.unpack("<I", file.read(4))
    for _ in range(count):
        yield _read_name(file), _read_name(file)


def _read_name(file: BinaryIO) -> str:
    (length,) = struct.unpack("<H", file.read(2))
    if not 0 < length <= MAX_NAME_BYTES:
        raise ValueError(f"a name of {length} bytes")
    return file.read(length)[:-1].decode("utf-8")


def _array(data: bytes, kind: int) -> NDArray[Any]:
    if DTYPES[kind] == "bfloat16":  # the upper half of a float32
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32)
    return np.frombuffer(data, DTYPES[kind])


def _unscale(name: str, array: NDArray[Any], arrays: Arrays) -> NDArray[Any]:
    scale = arrays.get(f"{name}_scale")
    if scale is None:
        return array
    rows = scale.reshape(-1, *[1] * (array.ndim - 1)) if scale.ndim else scale
    return (array.astype(np.float32) / rows).astype(np.float32)


def _whisper_weights(arrays: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield (transformers' name, array) for each weight."""
    for side in ("encoder", "decoder"):
        to = f"model.{side}"
        yield f"{to}.embed_positions.weight", arrays[f"{side}/position_encodings/encodings"]
        yield from _norm(arrays, f"{side}/layer_norm", f"{to}.layer_norm")
        for layer in range(_layers(arrays, side)):
            yield from _layer(arrays, f"{side}/layer_{layer}", f"{to}.layers.{layer}")
    yield "model.decoder.embed_tokens.weight", arrays["decoder/embeddings/weight"]
    for conv in ("conv1", "conv2"):
        yield from _linear(arrays, f"encoder/{conv}", f"model.encoder.{conv}")


def _layer(arrays: Arrays, source: str, to: str) -> Iterator[tuple[str, NDArray[Any]]]:
    attention = f"{source}/self_attention"
    yield from _norm(arrays, f"{attention}/layer_norm", f"{to}.self_attn_layer_norm")
    yield from _stacked(arrays, f"{attention}/linear_0", f"{to}.self_attn", "qkv")
    yield from _linear(arrays, f"{attention}/linear_1", f"{to}.self_attn.out_proj")
    if f"{source}/attention/linear_0/weight" in arrays:
        cross = f"{source}/attention"
        yield from _norm(arrays, f"{cross}/layer_norm", f"{to}.encoder_attn_layer_norm")
        yield from _stacked(arrays, f"{cross}/linear_0", f"{to}.encoder_attn", "q")
        yield from _stacked(arrays, f"{cross}/linear_1", f"{to}.encoder_attn", "kv")
        yield from _linear(arrays, f"{cross}/linear_2", f"{to}.encoder_attn.out_proj")
    yield from _norm(arrays, f"{source}/ffn/layer_norm", f"{to}.final_layer_norm")
    yield from _linear(arrays, f"{source}/ffn/linear_0", f"{to}.fc1")
    yield from _linear(arrays, f"{source}/ffn/linear_1", f"{to}.fc2")


def _stacked(
    arrays: Arrays, source: str, to: str, parts: str
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Split stacked projections. Whisper's k has no bias; CTranslate2 stores zeros for it."""
    weights = np.split(arrays[f"{source}/weight"], len(parts))
    biases = np.split(arrays[f"{source}/bias"], len(parts))
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        yield f"{to}.{part}_proj.weight", np.ascontiguousarray(weight)
        if part != "k":
            yield f"{to}.{part}_proj.bias", np.ascontiguousarray(bias)


def _linear(arrays: Arrays, source: str, to: str) -> Iterator[tuple[str, NDArray[Any]]]:
    yield f"{to}.weight", arrays[f"{source}/weight"]
    yield f"{to}.bias", arrays[f"{source}/bias"]


def _norm(arrays: Arrays, source: str, to: str) -> Iterator[tuple[str, NDArray[Any]]]:
    yield f"{to}.weight", arrays[f"{source}/gamma"]
    yield f"{to}.bias", arrays[f"{source}/beta"]


def _layers(arrays: Arrays, side: str) -> int:
    prefix = f"{side}/layer_"
    numbers = [name[len(prefix) :].split("/")[0] for name in arrays if name.startswith(prefix)]
    return 1 + max(int(number) for number in numbers if number.isdigit())


def _dimensions(arrays: Arrays) -> ModelDimensions:
    vocabulary, width = arrays["decoder/embeddings/weight"].shape
    sides = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = _layers(arrays, side)
        sides[f"{side}_attention_heads"] = int(arrays[f"{side}/num_heads"])
        sides[f"{side}_ffn_dim"] = arrays[f"{side}/layer_0/ffn/linear_0/weight"].shape[0]
    return ModelDimensions(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=arrays["encoder/conv1/weight"].shape[1],
        max_source_positions=arrays["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=arrays["decoder/position_encodings/encodings"].shape[0],
        **sides,
    )


def _config(arrays: Arrays, dimensions: ModelDimensions) -> dict[str, object]:
    """The values of transformers' WhisperConfig."""
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        **asdict(dimensions),
        "bos_token_id": 50257,
        "eos_token_id": 50257,
        "pad_token_id": 50257,
        "decoder_start_token_id": 50258,
        "activation_function": "gelu",
        "scale_embedding": False,
        "dtype": "float32" if arrays["encoder/conv1/weight"].dtype == np.float32 else "float16",
    }


def _generation_config(source: Path, dimensions: ModelDimensions) -> dict[str, object]:
    """The generation config for generate() and for the conversion to CTranslate2.

    An empty one would lose the languages.
    """
    path = source / "config.json"
    own = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    languages = {
        name: number
        for name, number in ids.items()
        if ids["<|startoftranscript|>"] < number < ids["<|translate|>"]
    }
    return {
        "alignment_heads": own.get("alignment_heads"),
        "begin_suppress_tokens": own.get("suppress_ids_begin"),
        "suppress_tokens": own.get("suppress_ids"),
        "bos_token_id": 50257,
        "eos_token_id": 50257,
        "pad_token_id": 50257,
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "is_multilingual": True,
        "lang_to_id": languages,
        "max_initial_timestamp_index": 50,
        "max_length": dimensions.max_target_positions,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
        "task_to_id": {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
    }


def _preprocessor_config(mel_bins: int) -> dict[str, object]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": mel_bins,
        "sampling_rate": 16000,
        "hop_length": 160,
        "chunk_length": 30,
        "n_fft": 400,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
