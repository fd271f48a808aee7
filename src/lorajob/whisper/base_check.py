"""Checks a transformers folder of a base Whisper without loading it.

What training or conversion would refuse hours later is refused here, by the files alone: settings,
the names and shapes of the weights, the tokens. Needs neither torch nor transformers.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lorajob.errors import ModelError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MEL_BINS = (80, 128)
POSITIONS = 1500  # of the encoder: 30 s
LABEL_POSITIONS = 448
MULTILINGUAL_VOCABULARY = 51865  # tokens; large-v3 has one more, English-only models one less
TIMESTAMPS = 1501
MAX_HEADER_BYTES = 100_000_000
MODELS_WITH = {"yue": "openai/whisper-large-v3 and openai/whisper-large-v3-turbo have it"}
STAND_IN = {"yue": "zh-HK"}
OPENAI = re.compile(r"(?:openai|demo)/whisper-(?P<size>[a-z0-9-]+)(?P<english>\.en)?")
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|transcribe|>",
    "<|notimestamps|>",
)


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


def check_base(folder: Path, language_token: str | None = None) -> None:
    """Raise ModelError, which says why, unless a folder can be trained and converted.

    `language_token` is the Whisper code of the job's language.
    """
    missing = missing_files(folder)
    if missing:
        adapter = (folder / "adapter_config.json").is_file()
        hint = "; this is a LoRA adapter: give the model that it belongs to" if adapter else ""
        raise ModelError(
            f"base_model: {folder} is not a Whisper folder: {', '.join(missing)} missing{hint}"
        )
    config = read_json(folder / "config.json")
    if not config:
        return  # it states nothing that could be checked; training refuses it
    dimensions = dimensions_of(folder, config)
    _check_features(folder, dimensions)
    _check_tokens(folder, dimensions, language_token)
    if (shapes := weight_shapes(folder)) is not None:
        _check_weights(folder, dimensions, shapes)


def check_name(base_model: str, language_token: str) -> None:
    """As `check_base`, for the models of OpenAI that are known by their names."""
    found = OPENAI.fullmatch(base_model)
    if found is None:
        return
    if found["english"]:
        raise ModelError(
            f"base_model: {base_model} is an English-only Whisper; use a multilingual one, such as "
            f"{base_model.removesuffix('.en')}"
        )
    if language_token == "yue" and "v3" not in found["size"] and "turbo" not in found["size"]:
        raise no_language(base_model, language_token)


def missing_files(folder: Path) -> list[str]:
    """The files that a base needs and that no other file of the folder can replace."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [] if "config.json" in found else ["config.json"]
    if not found & {"preprocessor_config.json", "processor_config.json"}:
        missing.append("preprocessor_config.json")
    if "tokenizer.json" not in found and not {"vocab.json", "merges.txt"} <= found:
        missing.append("tokenizer.json")
    if not found & {*WEIGHTS, *PICKLED}:
        missing.append("model.safetensors")
    return missing


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"base_model: {path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ModelError(f"base_model: {path} is not a JSON object")
    return values


def features_of(folder: Path) -> dict[str, Any]:
    """The settings of the feature extractor. transformers 5 puts them into processor_config.json.

    Raises ModelError.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        return read_json(path)
    inner = read_json(folder / "processor_config.json").get("feature_extractor")
    if not isinstance(inner, dict):
        raise ModelError(
            f"base_model: {folder}/processor_config.json has no feature_extractor, and "
            "preprocessor_config.json is missing"
        )
    return inner


def tokens_of(folder: Path) -> dict[str, int]:
    """Token -> id of the tokenizer, with added tokens. Raises ModelError."""
    if (folder / "tokenizer.json").is_file():
        values = read_json(folder / "tokenizer.json")
        vocabulary: Any = (values.get("model") or {}).get("vocab")
        added = values.get("added_tokens") or []
        try:
            tokens = {str(token): int(number) for token, number in dict(vocabulary).items()}
            return tokens | {str(it["content"]): int(it["id"]) for it in added}
        except (ValueError, LookupError, TypeError):
            raise ModelError(f"base_model: {folder}/tokenizer.json is not Whisper's") from None
    tokens = read_json(folder / "vocab.json")
    if (folder / "added_tokens.json").is_file():
        tokens |= read_json(folder / "added_tokens.json")
    if not all(isinstance(number, int) for number in tokens.values()):
        raise ModelError(f"base_model: {folder}/vocab.json is not Whisper's")
    return tokens


def no_language(folder: Path | str, code: str) -> ModelError:
    """The error of a base without a language's token."""
    known = MODELS_WITH.get(code, "a multilingual Whisper is needed")
    stand_in = f"; or submit with --lang {STAND_IN[code]}" if code in STAND_IN else ""
    return ModelError(f"base_model: {folder} has no token <|{code}|>; {known}{stand_in}")


def dimensions_of(folder: Path, config: Mapping[str, object]) -> ModelDimensions:
    """The sizes in a config.json. Raises ModelError for those that are not supported."""
    kind = config.get("model_type")
    if kind != "whisper":
        raise ModelError(f"base_model: {folder} is a {kind!r}, not a Whisper")
    found = ModelDimensions(
        **{it.name: _positive(folder, config, it.name) for it in fields(ModelDimensions)}
    )
    if found.vocab_size < MULTILINGUAL_VOCABULARY:
        raise ModelError(
            f"base_model: {folder} is an English-only Whisper, with {found.vocab_size} tokens; use"
            " a multilingual one, such as openai/whisper-small"
        )
    for heads in (found.encoder_attention_heads, found.decoder_attention_heads):
        if found.d_model % heads:
            raise ModelError(
                f"base_model: {folder}: d_model {found.d_model} is no multiple of {heads}"
            )
    limits = {
        "num_mel_bins": MEL_BINS,
        "max_source_positions": (POSITIONS,),
        "max_target_positions": (LABEL_POSITIONS,),
    }
    for name, allowed in limits.items():
        if (value := getattr(found, name)) not in allowed:
            words = " or ".join(map(str, allowed))
            raise ModelError(f"base_model: {folder} has {name} {value}; {words} is supported")
    return found


def _positive(folder: Path, config: Mapping[str, object], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"base_model: {folder}/config.json has {name} {value!r}")
    return value


def _check_features(folder: Path, dimensions: ModelDimensions) -> None:
    said = features_of(folder)
    wanted = {
        "feature_size": dimensions.num_mel_bins,
        "sampling_rate": 16_000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": 30,
    }
    for name, value in wanted.items():
        if said.get(name, value) != value:
            raise ModelError(
                f"base_model: {folder} has {name} {said[name]!r} in its feature extractor; this "
                f"model needs {value}"
            )


def _check_tokens(folder: Path, dimensions: ModelDimensions, language_token: str | None) -> None:
    tokens = tokens_of(folder)
    for token in SPECIAL:
        if token not in tokens:
            raise ModelError(
                f"base_model: {folder} has no token {token}; a multilingual Whisper is needed"
            )
    if language_token is not None and f"<|{language_token}|>" not in tokens:
        raise no_language(folder, language_token)
    highest = max(tokens.values())
    if highest >= dimensions.vocab_size:
        raise ModelError(
            f"base_model: {folder} has a tokenizer of {highest + 1} tokens, but weights for "
            f"{dimensions.vocab_size}; resize the embeddings, or take the tokenizer of the model"
        )
    first = tokens["<|notimestamps|>"] + 1
    behind = {it: number for it, number in tokens.items() if number >= first}
    added = [it for it in behind if not is_special(it)]
    if added:
        some = ", ".join(map(repr, sorted(added)[:3]))
        raise ModelError(
            f"base_model: {folder} has {len(added)} added text tokens, such as {some}; "
            "faster-whisper leaves out tokens behind <|endoftext|>, so its transcripts would lack "
            "them; take the model without added tokens"
        )
    for token, number in behind.items():
        if number < first + TIMESTAMPS and not is_timestamp(token):
            raise ModelError(
                f"base_model: {folder} has the token {token!r} at the id {number}, where "
                "Whisper has a timestamp; add such tokens behind the timestamps"
            )
    if unused := missing_ids(tokens):
        stray = [number for number in unused if not first <= number < first + TIMESTAMPS]
        if stray:
            raise ModelError(
                f"base_model: {folder} has a tokenizer without a token of id {stray[0]}"
            )


def is_special(token: str) -> bool:
    """Whether a token has the form of Whisper's special tokens."""
    return token.startswith("<|") and token.endswith("|>")


def is_timestamp(token: str) -> bool:
    """Whether a token has the form of a timestamp, such as `<|1.20|>`."""
    return re.fullmatch(r"<\|\d+\.\d\d\|>", token) is not None


def missing_ids(tokens: Mapping[str, int]) -> list[int]:
    """The ids below the highest that no token has."""
    return sorted(set(range(max(tokens.values()) + 1)) - set(tokens.values()))


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Name -> shape of the weights in safetensors files; None for pickled weights, which are not
    opened here. Raises ModelError for a damaged or incomplete file.
    """
    single, index = (folder / name for name in WEIGHTS)
    if single.is_file():
        return dict(_header(single))
    if not index.is_file():
        return None
    shapes: dict[str, tuple[int, ...]] = {}
    names = read_json(index).get("weight_map") or {}
    for name in sorted(set(names.values())):
        if "/" in name or not (folder / name).is_file():
            raise ModelError(f"base_model: {folder} lacks {name}, which {index.name} names")
        shapes |= dict(_header(folder / name))
    return shapes


def _header(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        end = max((it["data_offsets"][1] for it in header.values()), default=0)
        if path.stat().st_size != 8 + size + end:
            raise ValueError(f"{path.stat().st_size} bytes instead of {8 + size + end}")
        yield from ((name, tuple(it["shape"])) for name, it in header.items())
    except (struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"base_model: {path} is damaged or incomplete: {error}") from None


def _check_weights(
    folder: Path, dimensions: ModelDimensions, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    found = {name.removeprefix("model."): shape for name, shape in shapes.items()}
    for name, shape in expected_shapes(dimensions):
        if name not in found:
            raise ModelError(f"base_model: {folder} has no weights {name}, which config.json needs")
        if found[name] != shape:
            raise ModelError(
                f"base_model: {folder} has weights {name} of shape {list(found[name])}; "
                f"config.json says {list(shape)}"
            )


def expected_shapes(dimensions: ModelDimensions) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of the matrices of a Whisper with these dimensions."""
    width = dimensions.d_model
    yield "encoder.conv1.weight", (width, dimensions.num_mel_bins, 3)
    yield "encoder.conv2.weight", (width, width, 3)
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
            yield f"{layer}.fc1.weight", (inner, width)
            yield f"{layer}.fc2.weight", (width, inner)
        yield f"{side}.layer_norm.weight", (width,)
