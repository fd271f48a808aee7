"""Random base models in every form in which people save a Whisper, from a tiny one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorajob.job.jobdir import write_json


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_bytes())
    return values


def by_transformers_5(folder: Path) -> None:
    """One processor_config.json."""
    path = folder / "preprocessor_config.json"
    write_json(
        folder / "processor_config.json",
        {"feature_extractor": read(path), "processor_class": "WhisperProcessor"},
    )
    path.unlink()


def pickled(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()


def with_vocabulary_and_merges(folder: Path) -> None:
    """vocab.json, merges.txt and added_tokens.json in place of tokenizer.json."""
    tokenizer = read(folder / "tokenizer.json")
    write_json(folder / "vocab.json", tokenizer["model"]["vocab"])
    merges = tokenizer["model"]["merges"]
    lines = [it if isinstance(it, str) else " ".join(it) for it in merges]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", "utf-8")
    added = {it["content"]: it["id"] for it in tokenizer["added_tokens"]}
    write_json(folder / "added_tokens.json", added)
    (folder / "tokenizer.json").unlink()


def without_languages(folder: Path) -> None:
    path = folder / "generation_config.json"
    said = read(path)
    for name in ("lang_to_id", "task_to_id", "is_multilingual"):
        said.pop(name, None)
    write_json(path, said)


def without_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()


def distilled(folder: Path) -> None:
    """The alignment heads of its teacher, whose decoder had 32 layers."""
    path = folder / "generation_config.json"
    write_json(path, read(path) | {"alignment_heads": [[7, 0], [1, 1], [25, 6]]})


def set_config(folder: Path, **changes: object) -> None:
    write_json(folder / "config.json", read(folder / "config.json") | changes)


def add_token(folder: Path, token: str, number: int) -> None:
    path = folder / "tokenizer.json"
    tokenizer = read(path)
    entry = tokenizer["added_tokens"][-1] | {"content": token, "id": number}
    write_json(path, tokenizer | {"added_tokens": [*tokenizer["added_tokens"], entry]})


def with_cantonese(folder: Path) -> None:
    """large-v3's tokenizer: `<|yue|>` behind the other languages, all later ids one higher."""
    path = folder / "tokenizer.json"
    tokenizer = read(path)
    added = tokenizer["added_tokens"]
    at = next(it["id"] for it in added if it["content"] == "<|translate|>")
    later = [it | {"id": it["id"] + 1} for it in added if it["id"] >= at]
    own = later[0] | {"id": at, "content": "<|yue|>"}
    moved = {it["content"]: it["id"] for it in later}
    tokenizer["added_tokens"] = [*(it for it in added if it["id"] < at), own, *later]
    for name, entry in tokenizer["post_processor"]["special_tokens"].items():
        if name in moved:
            entry["ids"] = [moved[name]]
    write_json(path, tokenizer)
    path = folder / "generation_config.json"
    said = read(path)
    said["lang_to_id"]["<|yue|>"] = at
    said["task_to_id"] = {name: it + 1 for name, it in said["task_to_id"].items()}
    said["no_timestamps_token_id"] += 1
    write_json(path, said)


def copy_of(folder: Path, target: Path, *changes: Callable[[Path], None]) -> Path:
    """A copy of a base with these changes."""
    copied = Path(shutil.copytree(folder, target))
    for change in changes:
        change(copied)
    return copied
