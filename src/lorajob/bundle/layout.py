"""Which forms of a model a bundle has, where they lie in it, and its licence."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lorajob.errors import UsageError

FORMS = ("adapter", "merged", "ctranslate2", "ggml")
FORM_WORDS = {  # of other tools
    "gguf": "ggml",
    "whisper.cpp": "ggml",
    "cpp": "ggml",
    "peft": "adapter",
    "lora": "adapter",
    "hf": "merged",
    "transformers": "merged",
    "safetensors": "merged",
    "pytorch": "merged",
    "ct2": "ctranslate2",
    "faster-whisper": "ctranslate2",
}
INDEX = "bundle.json"
CARD = "README.md"
GGML_FILE = "ggml/ggml-model.bin"
# Of the job, as `JobFiles.local` takes them.
NEEDED = ("preprocess/report.json", "train", "evaluate", "convert")

# The Hub knows licences by identifiers such as apache-2.0, cc-by-4.0 or other.
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+_-]*")


@dataclass(frozen=True)
class Layout:
    """Paths in the bundle, "" for its root; None, or empty, for a form that it lacks."""

    adapter: str | None
    merged: str | None
    ctranslate2: tuple[str, ...]  # a folder for each type, the main one first
    ggml: str | None

    @property
    def forms(self) -> list[str]:
        return [form for form in FORMS if getattr(self, form) not in (None, ())]


def needed_files(check: int | None) -> tuple[str, ...]:
    """The files of a job that its bundle is made of; with `check`, also its test clips."""
    return (*NEEDED, "preprocess/test") if check else NEEDED


def parse_forms(text: str) -> tuple[str, ...]:
    """The forms of a comma-separated list. Raises UsageError for an unknown one."""
    named = [word.strip() for word in text.split(",") if word.strip()]
    for word in named:
        if word not in FORMS:
            meant = FORM_WORDS.get(word.lower())
            hint = f"did you mean {meant}?" if meant else f"allowed: {', '.join(FORMS)}"
            raise UsageError(f"--what: {word!r} is not a form; {hint}")
    if not named:
        raise UsageError(f"--what: names no form; allowed: {', '.join(FORMS)}")
    return tuple(form for form in FORMS if form in named)


def check_license(text: str | None) -> str | None:
    """The licence's identifier in lower case. Raises UsageError for a sentence."""
    if text is None:
        return None
    lower = text.strip().lower()
    if not LICENSE.fullmatch(lower):
        raise UsageError(
            f"--license: {text!r} is not an identifier of a licence, such as apache-2.0, mit, "
            "cc-by-4.0 or other"
        )
    return lower


def plan_layout(forms: Sequence[str], types: Sequence[str], hub: bool) -> Layout:
    """Where the forms lie. In a repository of the Hub, transformers and PEFT look in the root:
    there lies the merged model, or the adapter if there is no merged model.
    """
    adapter_folder = "" if hub and "merged" not in forms else "adapter"
    return Layout(
        adapter=adapter_folder if "adapter" in forms else None,
        merged=("" if hub else "merged") if "merged" in forms else None,
        ctranslate2=tuple(f"ctranslate2/{it}" for it in types) if "ctranslate2" in forms else (),
        ggml=GGML_FILE if "ggml" in forms else None,
    )
