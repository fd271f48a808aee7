"""Checks a transformers folder of a base Whisper without loading it.

What training or conversion would refuse hours later is refused here, by the files alone: settings,
the names and shapes of the weights, the tokens. Needs neither torch nor transformers.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from lorajob.errors import ModelError
from lorajob.whisper.base_settings import (
    FeatureSettings,
    GenerationSettings,
    ModelSettings,
    check_settings,
    is_size,
    read_json,
)
from lorajob.whisper.base_tokenizer import END, check_tokenizer, is_special, is_timestamp
from lorajob.whisper.base_weights import WEIGHTS, ModelDimensions, check_weights, weight_shapes

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MEL_BINS = (80, 128)
FEWER_BINS = 80  # of a feature extractor that states no number
POSITIONS = 1500  # of the encoder: 30 s
LABEL_POSITIONS = 448
MULTILINGUAL_VOCABULARY = 51865  # tokens; large-v3 has one more, English-only models one less
TIMESTAMPS = 1501
MODELS_WITH = {"yue": "openai/whisper-large-v3 and openai/whisper-large-v3-turbo have it"}
# Names of transformers for the same sizes.
OTHER_NAMES = {
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "num_key_value_heads": "encoder_attention_heads",
    "hidden_size": "d_model",
}
STAND_IN = {"yue": "zh-HK"}
OPENAI = re.compile(r"(?:openai|demo)/whisper-(?P<size>[a-z0-9-]+)(?P<english>\.en)?")
SPECIAL = (
    END,
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|notimestamps|>",
)


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
    check_settings(folder / "config.json", config, ModelSettings)
    _check_features(folder, dimensions)
    _check_generation(folder, dimensions)
    if (folder / "tokenizer_config.json").exists():
        read_json(folder / "tokenizer_config.json")
    _check_tokens(folder, dimensions, language_token)
    if (shapes := weight_shapes(folder)) is not None:
        check_weights(folder, dimensions, shapes)
    # Last, because loading takes longer than all the rest.
    check_tokenizer(folder)


def check_language_token(folder: Path, language_token: str) -> None:
    """Raise ModelError unless a folder that was checked has the token of a language."""
    if read_json(folder / "config.json"):
        _require_language(folder, tokens_of(folder), language_token)


def _require_language(folder: Path, tokens: Mapping[str, int], language_token: str) -> None:
    if f"<|{language_token}|>" not in tokens:
        raise no_language(folder, language_token)


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
    path = folder / "tokenizer.json"
    if path.exists():
        values = read_json(path)
        try:
            tokens = dict(values["model"]["vocab"])
            tokens |= {it["content"]: it["id"] for it in values.get("added_tokens") or []}
        except (ValueError, LookupError, TypeError):
            raise ModelError(f"base_model: {path} is not Whisper's") from None
    else:
        path = folder / "vocab.json"
        tokens = read_json(path)
        if (folder / "added_tokens.json").is_file():
            tokens |= read_json(folder / "added_tokens.json")
    for token, number in tokens.items():
        if not isinstance(token, str) or type(number) is not int or number < 0:
            raise ModelError(f"base_model: {path} gives the token {token!r} the id {number!r}")
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
    for other, name in OTHER_NAMES.items():
        if config.get(other, getattr(found, name)) != getattr(found, name):
            raise ModelError(
                f"base_model: {folder}/config.json has {other} {config[other]!r}, but {name} "
                f"{getattr(found, name)}; transformers takes them for the same"
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
    if type(value) is not int or value < 1:
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
        found = said.get(name, FEWER_BINS if name == "feature_size" else value)
        if found != value or not is_size(found):
            raise ModelError(
                f"base_model: {folder} has {name} {found!r} in its feature extractor; this "
                f"model needs {value}"
            )
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        path = folder / "processor_config.json"
    check_settings(path, said, FeatureSettings)


def _check_generation(folder: Path, dimensions: ModelDimensions) -> None:
    path = folder / "generation_config.json"
    if not path.exists():
        return
    said = read_json(path)
    check_settings(path, said, GenerationSettings)
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        highest = max(said.get(name) or [0])
        if highest >= dimensions.vocab_size:
            raise ModelError(
                f"base_model: {path} has the token {highest} in {name}; the model has "
                f"{dimensions.vocab_size} tokens"
            )


def _check_tokens(folder: Path, dimensions: ModelDimensions, language_token: str | None) -> None:
    tokens = tokens_of(folder)
    for token in SPECIAL:
        if token not in tokens:
            raise ModelError(
                f"base_model: {folder} has no token {token}; a multilingual Whisper is needed"
            )
    if language_token is not None:
        _require_language(folder, tokens, language_token)
    if twice := len(tokens) - len({*tokens.values()}):
        raise ModelError(f"base_model: {folder} has {twice} tokens with the id of another token")
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


def missing_ids(tokens: Mapping[str, int]) -> list[int]:
    """The ids below the highest that no token has."""
    return sorted(set(range(max(tokens.values()) + 1)) - set(tokens.values()))
