"""Completes a transformers folder in another folder, in the form that the stages read.

transformers 5 saves one processor_config.json, older models have pickled weights, vocab.json and
merges.txt, a generation_config.json without languages, or a config.json without Whisper's start
token. The weights are linked, not copied, unless they are pickled.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lorajob.errors import ModelError
from lorajob.job.jobdir import write_json
from lorajob.whisper.base_check import (
    check_base,
    dimensions_of,
    features_of,
    missing_ids,
    tokens_of,
)
from lorajob.whisper.base_settings import plainly_encoded, read_json
from lorajob.whisper.base_tokenizer import END, TOKENIZER_CONFIG, from_vocabulary, is_special
from lorajob.whisper.base_weights import WEIGHTS, ModelDimensions
from lorajob.whisper.tokens import TIMESTAMP_STEP_SECONDS

NOT_LANGUAGES = {
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|nocaptions|>",
    "<|notimestamps|>",
}
START = "<|startoftranscript|>"
START_NAME = "decoder_start_token_id"
# Settings of generation that older models keep in config.json.
LEGACY = ("suppress_tokens", "begin_suppress_tokens")


def is_complete(folder: Path) -> bool:
    """Whether the stages can read a checked folder as it is."""
    config = read_json(folder / "config.json")
    if not config:
        return True  # nothing is known about it that could be completed
    names = ("preprocessor_config.json", "tokenizer.json", "generation_config.json")
    if not all((folder / name).is_file() for name in names):
        return False
    if not any((folder / name).is_file() for name in WEIGHTS):
        return False
    if not all(plainly_encoded(path) for path in folder.glob("*.json")):
        return False
    said, tokens = read_json(folder / "generation_config.json"), tokens_of(folder)
    if not said.get("lang_to_id") or missing_between(tokens) or not _agrees(said, tokens):
        return False
    # Both would change the texts of the training: one cuts them, the other adds tokens.
    tokenizer = read_json(folder / "tokenizer.json")
    if tokenizer.get("truncation") or tokenizer.get("padding"):
        return False
    start = tokens[START]
    if config != _with_tokens(config, tokens) or said.get(START_NAME) not in (None, start):
        return False
    heads = said.get("alignment_heads")
    return heads is None or heads == _heads(heads, _dimensions(folder))


def _agrees(said: Mapping[str, Any], tokens: Mapping[str, int]) -> bool:
    """Whether the ids in a generation_config.json are those of the tokenizer."""
    tasks = {f"<|{name}|>": number for name, number in (said.get("task_to_id") or {}).items()}
    ids = said["lang_to_id"] | tasks
    if (number := said.get("no_timestamps_token_id")) is not None:
        ids["<|notimestamps|>"] = number
    return all(tokens.get(token) == number for token, number in ids.items())


def complete(source: Path, target: Path) -> None:
    """Write to `target` a complete folder of the base in `source`. Raises ModelError."""
    _put_weights(source, target)
    config = read_json(source / "config.json")
    write_json(target / "config.json", _with_tokens(config, tokens_of(source)))
    write_json(target / "preprocessor_config.json", features_of(source))
    _put_tokenizer(source, target)
    write_json(target / "generation_config.json", _generation(source))
    tokenizer = source / "tokenizer_config.json"
    if tokenizer.is_file():
        write_json(target / tokenizer.name, read_json(tokenizer))
    else:
        write_json(target / tokenizer.name, TOKENIZER_CONFIG)
    try:
        check_base(target)  # now with the shapes of weights that were pickled
    except ModelError as error:
        # The user knows the source, and the target is removed.
        raise ModelError(str(error).replace(str(target), str(source))) from None


def _with_tokens(config: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    """A config.json with the tokenizer's start token and a token for padding.

    Decoding takes its start token from the tokenizer, training from this file. transformers' value
    for a missing one, 50257, is <|endoftext|> in multilingual models.
    """
    fixed = dict(config) | {START_NAME: tokens[START]}
    padding = config.get("pad_token_id", tokens[END])
    if not isinstance(padding, int) or not 0 <= padding < config["vocab_size"]:
        fixed["pad_token_id"] = tokens[END]
    return fixed


def _put_weights(source: Path, target: Path) -> None:
    if any((source / name).is_file() for name in WEIGHTS):
        for path in [*source.glob("*.safetensors"), source / WEIGHTS[1]]:
            if path.is_file():
                (target / path.name).symlink_to(path.resolve())
        return
    # By name, because a worker's own process must not load torch.
    pickled = importlib.import_module("lorajob.whisper.pickled")
    pickled.to_safetensors(source, target / WEIGHTS[0])


def _put_tokenizer(source: Path, target: Path) -> None:
    path = source / "tokenizer.json"
    tokens = _with_timestamps(tokens_of(source))
    tokenizer = _renewed(path, tokens) if path.is_file() else from_vocabulary(source, tokens)
    for token, number in tokens.items():
        if tokenizer.token_to_id(token) != number:
            raise ModelError(
                f"base_model: {source}: token {token!r} has the id {number}, which cannot be kept"
            )
    tokenizer.save(str(target / "tokenizer.json"))


def missing_between(tokens: Mapping[str, int]) -> bool:
    """Whether timestamps are missing in front of added tokens, which gives these other ids."""
    return bool(missing_ids(tokens))


def _with_timestamps(tokens: Mapping[str, int]) -> dict[str, int]:
    """The tokens, with a timestamp for each missing id.

    CTranslate2 counts tokens in the order of their ids, and tokenizers numbers added tokens anew,
    so that no id may be missing.
    """
    first = tokens["<|notimestamps|>"] + 1
    missing = {
        f"<|{(number - first) * TIMESTAMP_STEP_SECONDS:.2f}|>": number
        for number in missing_ids(tokens)
    }
    return dict(tokens) | missing


def _renewed(path: Path, tokens: Mapping[str, int]) -> Tokenizer:
    """The tokenizer in a tokenizer.json, with these tokens."""
    content = read_json(path)
    added = content["added_tokens"]
    known = {it["content"] for it in added} | content["model"]["vocab"].keys()
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added += [
        {"id": number, "content": token} | plain
        for token, number in tokens.items()
        if token not in known
    ]
    content |= {"truncation": None, "padding": None}
    added.sort(key=lambda it: it["id"])
    try:
        return Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    except Exception as error:  # tokenizers raises plain exceptions
        raise ModelError(f"base_model: {path} does not load: {error}") from None


def _generation(source: Path) -> dict[str, object]:
    """The settings of generation, with the languages and tasks of the tokenizer."""
    path = source / "generation_config.json"
    said = read_json(path) if path.is_file() else {}
    tokens = tokens_of(source)
    end = tokens[END]
    first, last = tokens[START], tokens["<|transcribe|>"]
    languages = {
        token: number
        for token, number in tokens.items()
        if first < number < last and is_special(token) and token not in NOT_LANGUAGES
    }
    tasks = {name: tokens[f"<|{name}|>"] for name in ("transcribe", "translate")}
    usual: dict[str, object] = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        START_NAME: first,
        "is_multilingual": True,
        "lang_to_id": languages,
        "task_to_id": tasks,
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "return_timestamps": False,
        "suppress_tokens": [],
        "begin_suppress_tokens": [tokens.get("Ġ", 220), end],
    }
    if (before := tokens.get("<|startofprev|>")) is not None:
        usual["prev_sot_token_id"] = before
    config = read_json(source / "config.json")
    legacy = {name: config[name] for name in LEGACY if config.get(name) is not None}
    made = usual | legacy | {name: value for name, value in said.items() if value is not None}
    names = ("lang_to_id", "task_to_id", "no_timestamps_token_id")
    agrees = bool(made.get("lang_to_id")) and _agrees(made, tokens)
    made |= {name: usual[name] for name in names if not agrees or not made.get(name)}
    made[START_NAME] = first
    made.pop("forced_decoder_ids", None)  # transformers 5 refuses it
    heads = _heads(said.get("alignment_heads"), _dimensions(source))
    if heads is None:
        made.pop("alignment_heads", None)
    else:
        made["alignment_heads"] = heads
    return made


def _heads(said: list[list[int]] | None, dimensions: ModelDimensions) -> list[list[int]] | None:
    """The alignment heads that the decoder has. A distilled one lacks those of its teacher's other
    layers. None without any: CTranslate2 then takes the upper half of the layers.
    """
    layers, heads = dimensions.decoder_layers, dimensions.decoder_attention_heads
    return [it for it in said or () if it[0] < layers and it[1] < heads] or None


def _dimensions(folder: Path) -> ModelDimensions:
    return dimensions_of(folder, read_json(folder / "config.json"))
