"""Finds a tokenizer on this machine, without a download."""

from contextlib import suppress
from pathlib import Path

from lorajob.checking.run import Count
from lorajob.demo.packaged import PACKAGED_NAME, packaged_files
from lorajob.errors import ModelError
from lorajob.languages import Language
from lorajob.storage.bases import is_stored_base, stored_folder

TOKENIZER = "tokenizer.json"


def token_counter(base_model: str, language: Language) -> Count | None:
    """What counts the tokens of a text for a base model; None if its tokenizer is not here.

    All multilingual Whispers have the same tokens for text. So the tokenizer of the packaged model
    stands in for one of OpenAI's that is not on this machine.
    """
    from lorajob.whisper.tokens import Labels

    for folder in _folders(base_model):
        try:
            return Labels(folder, language.token).count
        except ModelError:
            continue
    return None


def _folders(base_model: str) -> list[Path]:
    if is_stored_base(base_model):
        with suppress(ModelError):
            stored = stored_folder(base_model)
            return [] if stored is None else [stored]
        return []
    here = Path(base_model).expanduser()
    if here.is_dir():
        return [here]
    found = []
    if base_model != PACKAGED_NAME:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(base_model, TOKENIZER)
        found = [Path(cached).parent] if isinstance(cached, str) else []
        if not base_model.startswith("openai/"):
            return found
    try:
        return [*found, packaged_files()[0]]
    # The extra `demo` is not installed.
    except ModelError:
        return found
