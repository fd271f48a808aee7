"""The examples of a model card: how each library loads and runs the model.

Paths are relative to the bundle's folder. In a repository of the Hub they are fetched first. A test
runs each example of Python.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lorajob.bundle.facts import Facts
from lorajob.bundle.layout import Layout

SOUND = 'audio, rate = soundfile.read("audio.wav", dtype="float32")'


@dataclass(frozen=True)
class _Place:
    """Where an example finds the folder of a form."""

    repo: str | None
    folder: str  # "" for the root

    @property
    def arguments(self) -> str:
        """As arguments of a `from_pretrained`."""
        if self.repo is None:
            return f'"{self.folder or "."}"'
        inner = f', subfolder="{self.folder}"' if self.folder else ""
        return f'"{self.repo}"{inner}'


def examples(
    facts: Facts, layout: Layout, repo: str | None, base: Path | None = None
) -> Iterator[tuple[str, str, str]]:
    """(title, language of the code, code) for each form in the bundle.

    With `base`, the code loads the base model from this folder, not from the Hub.
    """
    token = facts.language.token
    if layout.merged is not None:
        yield "transformers", "python", _transformers(_Place(repo, layout.merged), token)
    if layout.adapter is not None:
        yield "PEFT", "python", _peft(facts, _Place(repo, layout.adapter), token, base)
    if layout.ctranslate2:
        yield "faster-whisper", "python", _faster_whisper(repo, layout.ctranslate2[0], token)
    if layout.ggml is not None:
        yield "whisper.cpp from Python", "python", _pywhispercpp(repo, layout.ggml, token)
        yield "whisper.cpp", "sh", f"whisper-cli -m {layout.ggml} -l {token} -f audio.wav"


def _transformers(place: _Place, token: str) -> str:
    return f"""\
import soundfile
from transformers import WhisperForConditionalGeneration, WhisperProcessor

# float16 takes twice the time on a CPU, and may say another word here and there.
model = WhisperForConditionalGeneration.from_pretrained({place.arguments}, dtype="float32")
processor = WhisperProcessor.from_pretrained({place.arguments})
{_generate(token)}"""


def _generate(token: str) -> str:
    return f"""\
{SOUND}
heard = processor(audio, sampling_rate=rate, return_tensors="pt").input_features
ids = model.generate(input_features=heard.to(model.dtype), language="{token}", task="transcribe")
print(processor.batch_decode(ids, skip_special_tokens=True)[0])"""


def _peft(facts: Facts, place: _Place, token: str, folder: Path | None) -> str:
    base = "config.base_model_name_or_path, revision=config.revision"
    if folder is not None:
        base = repr(str(folder))
    elif facts.base.name is None:
        base = '"FOLDER/OF/THE/BASE/MODEL"'
    allow = ""
    if facts.allowed:
        allow = f"""\
# The training texts hold these tokens, which the base model never says.
said = {facts.allowed}
never = model.generation_config.suppress_tokens
model.generation_config.suppress_tokens = [it for it in never if it not in said]
"""
    return f"""\
import soundfile
from peft import PeftConfig, PeftModel
from transformers import WhisperForConditionalGeneration, WhisperProcessor

config = PeftConfig.from_pretrained({place.arguments})
# float16 takes twice the time on a CPU, and may say another word here and there.
base = WhisperForConditionalGeneration.from_pretrained({base}, dtype="float32")
model = PeftModel.from_pretrained(base, {place.arguments})
processor = WhisperProcessor.from_pretrained({base})
{allow}{_generate(token)}"""


def _faster_whisper(repo: str | None, folder: str, token: str) -> str:
    fetch, path = "", f'"{folder}"'
    if repo is not None:
        fetch = "from huggingface_hub import snapshot_download\n"
        path = f'snapshot_download("{repo}", allow_patterns="{folder}/*") + "/{folder}"'
    return f"""\
from faster_whisper import WhisperModel
{fetch}
model = WhisperModel({path})
segments, _ = model.transcribe("audio.wav", language="{token}")
print("".join(segment.text for segment in segments))"""


def _pywhispercpp(repo: str | None, file: str, token: str) -> str:
    fetch, path = "", f'"{file}"'
    if repo is not None:
        fetch = "from huggingface_hub import hf_hub_download\n"
        path = f'hf_hub_download("{repo}", "{file}")'
    return f"""\
{fetch}from pywhispercpp.model import Model

model = Model({path}, language="{token}")
print(" ".join(segment.text for segment in model.transcribe("audio.wav")))"""
