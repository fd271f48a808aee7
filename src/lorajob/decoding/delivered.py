"""Decodes a model as its users do: by faster-whisper with its own defaults, the language given.

Clips are decoded one at a time, with timestamps, beams and fallback. That takes several times as
long as the fast decoder, and far longer on a clip whose transcript repeats itself.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from pydantic import BaseModel

from lorajob.decoding.fast import Sound
from lorajob.errors import says_out_of_memory
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.whisper.cuda_libraries import expects_gpu, load_cuda_libraries, load_fitting

FEWEST_CLIPS = 8  # decoded even if the time is over
IDENTIFIED_CLIPS = 16  # of which the language is identified
WINDOW_SECONDS = 30.0

log = logging.getLogger(__name__)


class HeardClip(BaseModel, frozen=True):
    """A transcript, and the Whisper code of the language that the model identifies.

    `language` is "" if it was not identified. `sound` is the `sound_hash` of the sound.
    """

    text: str
    language: str = ""
    sound: str = ""


@dataclass(frozen=True)
class Placement:
    """Where a model was decoded, and in which type of CTranslate2.

    `default` is the type that the model was converted to. `fault` says why a GPU was not used.
    """

    device: Literal["cuda", "cpu"]
    compute_type: str = "default"
    fault: str = ""

    def identity(self) -> dict[str, str]:
        """What decides transcripts, as JSON."""
        return {"device": self.device, "on_device": self.compute_type}


@dataclass(frozen=True)
class DecodedClips:
    """Transcripts of the first of some clips, and how they came about.

    `seconds` is the time of transcribing alone, without loading the model and reading the clips.
    """

    clips: list[HeardClip]
    placement: Placement
    seconds: float = 0.0


class UsersModel(WhisperModel):  # type: ignore[misc]  # faster-whisper has no types
    """faster-whisper's model. It can also identify the language of what it transcribes.

    The encoder takes most of the time of a short clip. So the language is identified from the
    output of the encoder that `transcribe` uses. The transcript stays the same.
    """

    placement: Placement = Placement("cpu")
    identifies: bool = False
    identified: str = ""

    def encode(self, features: Any) -> ctranslate2.StorageView:
        """The output of the encoder for one window."""
        output = super().encode(features)
        if self.identifies and not self.identified:
            self.identified = self.model.detect_language(output)[0][0][0][2:-2]
        return output

    def identify(self, sound: Samples) -> str:
        """The language of the first 30 s, as `transcribe` identifies it for a shorter sound."""
        if len(sound) > WINDOW_SECONDS * SAMPLE_RATE:
            return str(self.detect_language(sound)[0])
        # `transcribe` leaves the last frame out, too.
        return str(self.detect_language(features=self.feature_extractor(sound)[..., :-1])[0])


def sound_hash(sound: Samples) -> str:
    """What a sound is known by."""
    return hashlib.sha256(sound.tobytes()).hexdigest()


def listen(
    model: Path,
    language: str,
    sounds: Sequence[Sound],
    seed: int = 0,
    seconds: float | None = None,
    done: Callable[[int], None] = lambda clips: None,
    enough: Callable[[Sequence[HeardClip]], bool] = lambda heard: False,
    threads: int = 0,
) -> DecodedClips:
    """The transcripts of the first of `sounds`, as many as `seconds` of time and `enough` allow.

    `done` is called after each clip, and `enough` with what was heard so far. `seed` decides what
    is sampled where a transcript trips one of Whisper's thresholds. `threads` is the number of CPU
    threads; 0: that of CTranslate2.
    """
    ctranslate2.set_random_seed(seed)
    whisper = load_for_users(model, threads)
    started = time.monotonic()
    heard: list[HeardClip] = []
    transcribing = 0.0
    for sound in sounds:
        spent = time.monotonic() - started
        if seconds is not None and spent > seconds and len(heard) >= FEWEST_CLIPS:
            log.info("%d of %d clips in %.0f s", len(heard), len(sounds), spent)
            break
        samples = sound.read()
        whisper.identifies, whisper.identified = len(heard) < IDENTIFIED_CLIPS, ""
        began = time.monotonic()
        segments, _ = whisper.transcribe(samples, language=language)
        text = " ".join(segment.text.strip() for segment in segments)
        transcribing += time.monotonic() - began
        heard.append(HeardClip(text=text, language=whisper.identified, sound=sound_hash(samples)))
        done(len(heard))
        if enough(heard):
            break
    return DecodedClips(heard, whisper.placement, transcribing)


def load_for_users(model: Path, threads: int = 0) -> UsersModel:
    """The model as faster-whisper loads it, on the GPU if CTranslate2 can use it."""
    # CTranslate2 warns that a CPU computes float16 in float32: that is expected here.
    ctranslate2.set_log_level(logging.ERROR)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    fault = ""
    if ctranslate2.get_cuda_device_count():
        missing = load_cuda_libraries()
        try:
            whisper, kind = load_fitting(lambda kind: _encoding(model, kind), "default")
        except RuntimeError as error:
            log.warning("CTranslate2 cannot use the GPU, so the CPU decodes: %s", error)
            fault = _why_not_gpu(error, missing)
        else:
            whisper.placement = Placement("cuda", kind)
            return whisper
    elif expects_gpu():
        fault = "CTranslate2 sees no GPU: update its driver"
    whisper = UsersModel(str(model), device="cpu", cpu_threads=threads)
    whisper.placement = Placement("cpu", fault=fault)
    return whisper


def usual_placement() -> Placement:
    """Where a model that fits is decoded."""
    return Placement("cuda" if ctranslate2.get_cuda_device_count() else "cpu")


def _encoding(model: Path, compute_type: str) -> UsersModel:
    """The model on the GPU, where it has encoded a second of silence."""
    whisper = UsersModel(str(model), device="cuda", compute_type=compute_type)
    whisper.encode(whisper.feature_extractor(np.zeros(SAMPLE_RATE, np.float32)))
    return whisper


def _why_not_gpu(error: RuntimeError, missing: Sequence[str]) -> str:
    if missing:
        return f"CTranslate2 lacks {' and '.join(missing)} for the GPU: install 'lorajob[cuda]'"
    if says_out_of_memory(error):
        return "the model does not fit the GPU in any type: use a GPU with more free memory"
    told = " ".join(str(error).split())
    return f"CTranslate2 cannot use the GPU ({told}): install 'lorajob[cuda]'"


def placement_warnings(placements: Mapping[str, Sequence[Placement]]) -> list[str]:
    """A warning for what was decoded on the CPU of a machine with a GPU, or in a smaller type.

    `placements` has those of `base`, `delivered` and `gate`.
    """
    names: dict[str, list[str]] = {}
    for name, places in placements.items():
        for place in dict.fromkeys(places):
            if place.fault:
                how = f"on the CPU, because {place.fault} on this machine"
            elif place.compute_type != "default":
                how = f"in {place.compute_type}, because the delivered type does not fit the GPU"
            else:
                continue
            names.setdefault(how, []).append(name)
    return [
        f"{_listed(found)} {'was' if len(found) == 1 else 'were'} decoded {how}"
        for how, found in names.items()
    ]


def _listed(names: Sequence[str]) -> str:
    """`base, delivered and gate`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
