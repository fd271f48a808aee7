"""Writes a Whisper in the format that whisper.cpp loads.

The format is that of whisper.cpp's `models/convert-pt-to-ggml.py`. All numbers are little-endian:

    int32       magic, and 11 sizes of the model; the last is 1 for 16-bit weights
    int32[2]    mel filters: rows, columns; then float32 of all
    int32       tokens of text; for each: int32 length, bytes
    tensors     until the end: int32[3] dimensions, length of the name, type; int32 for each
                dimension, the last first; the name; the values

Tokens of languages, tasks and times are not in the file: whisper.cpp numbers them itself.
"""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from transformers import WhisperForConditionalGeneration
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lorajob.decoding.windows import extractor
from lorajob.errors import UsageError

MAGIC = 0x67676D6C
FLOAT32, FLOAT16 = 0, 1
# whisper.cpp knows the special tokens of the multilingual models, and of large-v3 with Cantonese.
VOCABULARIES = (51865, 51866)
TEXT_TOKENS = 50257
MODULES = {
    "self_attn": "attn",
    "encoder_attn": "cross_attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
    "layers": "blocks",
}
WHOLE_NAMES = {
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens": "decoder.token_embedding",
}
# Small tensors that whisper.cpp reads as float32, besides those of one dimension.
ALWAYS_FLOAT32 = ("encoder.positional_embedding", "decoder.positional_embedding")
BIASES = ("encoder.conv1.bias", "encoder.conv2.bias")  # stored as columns


def write_ggml(model: WhisperForConditionalGeneration, tokenizer: Path, target: Path) -> None:
    """Write the model with 16-bit weights. `tokenizer` is its tokenizer.json.

    Raises UsageError if whisper.cpp cannot know the model's tokens.
    """
    config: Any = model.config
    tokens = _text_tokens(tokenizer)
    if config.vocab_size not in VOCABULARIES or len(tokens) != TEXT_TOKENS:
        raise UsageError(
            f"ggml: whisper.cpp has no model of {config.vocab_size} tokens, as the base model has; "
            "leave ggml out of --what"
        )
    with target.open("wb") as file:
        sizes = (
            config.vocab_size,
            config.max_source_positions,
            config.d_model,
            config.encoder_attention_heads,
            config.encoder_layers,
            config.max_target_positions,
            config.d_model,
            config.decoder_attention_heads,
            config.decoder_layers,
            config.num_mel_bins,
            FLOAT16,
        )
        _write_integers(file, MAGIC, *sizes)
        filters = np.asarray(extractor(config.num_mel_bins).mel_filters, np.float32)
        _write_integers(file, *filters.shape)
        file.write(np.ascontiguousarray(filters).tobytes())
        _write_integers(file, len(tokens))
        for token in tokens:
            _write_integers(file, len(token))
            file.write(token)
        for name, values in _tensors(model):
            _write_tensor(file, name, values)


def _text_tokens(tokenizer: Path) -> list[bytes]:
    """The bytes of each token of text, in the order of their ids from 0."""
    values = json.loads(tokenizer.read_bytes())
    special = {entry["content"] for entry in values["added_tokens"] if entry.get("special")}
    known: dict[str, int] = values["model"]["vocab"]
    text = sorted((place, token) for token, place in known.items() if token not in special)
    text = [(place, token) for place, token in text if place < TEXT_TOKENS]
    to_byte = {letter: byte for byte, letter in bytes_to_unicode().items()}
    return [bytes(to_byte[letter] for letter in token) for _, token in text]


def _tensors(model: WhisperForConditionalGeneration) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, tensor in model.state_dict().items():
        # The projection to the vocabulary is the embedding of tokens again.
        if name != "proj_out.weight":
            yield openai_name(name.removeprefix("model.")), tensor.float().cpu().numpy()


def openai_name(name: str) -> str:
    """The name of a tensor in openai/whisper, from transformers' name without `model.`."""
    for ours, theirs in WHOLE_NAMES.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    found = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", name)
    if found is None:
        return name
    parts = [MODULES.get(part, part) for part in found[3].split(".")]
    return ".".join((found[1], "blocks", found[2], *parts))


def _write_tensor(file: BinaryIO, name: str, values: NDArray[np.float32]) -> None:
    if name in BIASES:
        values = values.reshape(-1, 1)
    whole = values.ndim < 2 or name in ALWAYS_FLOAT32 or name in BIASES
    data = values if whole else values.astype(np.float16)
    written = name.encode()
    _write_integers(file, data.ndim, len(written), FLOAT32 if whole else FLOAT16)
    _write_integers(file, *reversed(data.shape))
    file.write(written)
    file.write(np.ascontiguousarray(data).tobytes())


def _write_integers(file: BinaryIO, *numbers: int) -> None:
    file.write(struct.pack(f"<{len(numbers)}i", *numbers))
