"""The tokenizer of a base: whether it loads, and whether it keeps a text."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lorajob.errors import ModelError, first_line
from lorajob.whisper.base_settings import read_json

END = "<|endoftext|>"
# Scripts, case, spaces and signs that Whisper's tokenizer gives back as they are.
SAMPLE = "Hello, the WORLD 42! नमस्ते ひらがな [«♪»]  ë e\N{COMBINING DIAERESIS}"
COMMON = " the world and people"  # four words with a token of their own
MOST_TOKENS = 8
TOKENIZER_CONFIG = {
    "tokenizer_class": "WhisperTokenizer",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "model_max_length": 1024,
}


def check_tokenizer(folder: Path) -> None:
    """Raise ModelError unless the tokenizer in a base's folder loads and keeps a text."""
    path = folder / "tokenizer.json"
    if path.is_file():
        found = _fault(path)
        if found is not None:
            raise ModelError(f"base_model: {path} {found}")
        return
    added = folder / "added_tokens.json"
    tokens = read_json(folder / "vocab.json") | (read_json(added) if added.is_file() else {})
    found = _loss(from_vocabulary(folder, tokens))
    if found is not None:
        raise ModelError(f"base_model: {folder}: its vocab.json and merges.txt {found}")


def _fault(path: Path) -> str | None:
    try:
        # from_file does not read a byte order mark, which `complete` takes away.
        data = path.read_bytes()
        tokenizer = Tokenizer.from_str(data.decode(json.detect_encoding(data)))
    except Exception as error:  # tokenizers raises plain exceptions
        return f"does not load: {first_line(error)}"
    return _loss(tokenizer)


def _loss(tokenizer: Tokenizer) -> str | None:
    """What is wrong with a tokenizer that loads; None for Whisper's."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        ids = tokenizer.encode(SAMPLE, add_special_tokens=False).ids
        kept = tokenizer.decode(ids, skip_special_tokens=True)
        common = len(tokenizer.encode(COMMON, add_special_tokens=False).ids)
    except Exception as error:  # tokenizers raises plain exceptions
        return f"does not encode a text: {first_line(error)}"
    end = tokenizer.token_to_id(END)
    # Some tokenizers put a space in front.
    if kept.removeprefix(" ") != SAMPLE or end is None or max(ids) >= end:
        return f"alters texts: {SAMPLE!r} becomes {kept!r}; take the tokenizer of the model"
    if common > MOST_TOKENS:
        return f"has no merges: {COMMON!r} takes {common} tokens; take the tokenizer of the model"
    return None


def from_vocabulary(source: Path, tokens: Mapping[str, int]) -> Tokenizer:
    """The tokenizer of vocab.json, merges.txt and added_tokens.json, as GPT-2's.

    Raises ModelError.
    """
    vocabulary: dict[str, int] = read_json(source / "vocab.json")
    try:
        lines = (source / "merges.txt").read_text("utf-8").splitlines()
        pairs = [line.partition(" ") for line in lines if line and not line.startswith("#version")]
        merges = [(left, right) for left, _, right in pairs]
        model = models.BPE(vocab=vocabulary, merges=merges)
    except Exception as error:  # tokenizers raises plain exceptions
        raise ModelError(f"base_model: {source}/merges.txt does not fit: {error}") from None
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for token in sorted(tokens, key=lambda it: tokens[it]):
        if is_special(token):
            special = not is_timestamp(token)
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=special)])
    return tokenizer


def is_special(token: str) -> bool:
    """Whether a token has the form of Whisper's special tokens."""
    return token.startswith("<|") and token.endswith("|>")


def is_timestamp(token: str) -> bool:
    """Whether a token has the form of a timestamp, such as `<|1.20|>`."""
    return re.fullmatch(r"<\|\d+\.\d\d\|>", token) is not None
