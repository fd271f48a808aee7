"""Decodes a model as its users do: by faster-whisper with its own defaults, the language given.

Clips are decoded one at a time, with timestamps, beams and fallback. That takes several times as
long as the fast decoder, and far longer on a clip whose transcript repeats itself.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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

gpu_faults: list[RuntimeError] = []  # why faster-whisper left the GPU in this process

log = logging.getLogger(__name__)


class HeardClip(BaseModel, frozen=True):
    """A transcript, and the Whisper code of the language that the model identifies.

    `language` is "" if it was not identified. `sound` is the `sound_hash` of the sound.
    """

    text: str
    language: str = ""
    sound: str = ""


class UsersModel(WhisperModel):  # type: ignore[misc]  # faster-whisper has no types
    """faster-whisper's model. It can also identify the language of what it transcribes.

    The encoder takes most of the time of a short clip. So the language is identified from the
    output of the encoder that `transcribe` uses. The transcript stays the same.
    """

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
) -> list[HeardClip]:
    """The transcripts of the first of `sounds`, as many as `seconds` of time and `enough` allow.

    `done` is called after each clip, and `enough` with what was heard so far. `seed` decides what
    is sampled where a transcript trips one of Whisper's thresholds. `threads` is the number of CPU
    threads; 0: that of CTranslate2.
    """
    ctranslate2.set_random_seed(seed)
    whisper = load_for_users(model, threads)
    started = time.monotonic()
    heard: list[HeardClip] = []
    for sound in sounds:
        spent = time.monotonic() - started
        if seconds is not None and spent > seconds and len(heard) >= FEWEST_CLIPS:
            log.info("%d of %d clips in %.0f s", len(heard), len(sounds), spent)
            break
        samples = sound.read()
        whisper.identifies, whisper.identified = len(heard) < IDENTIFIED_CLIPS, ""
        segments, _ = whisper.transcribe(samples, language=language)
        text = " ".join(segment.text.strip() for segment in segments)
        heard.append(HeardClip(text=text, language=whisper.identified, sound=sound_hash(samples)))
        done(len(heard))
        if enough(heard):
            break
    return heard


def load_for_users(model: Path, threads: int = 0) -> UsersModel:
    """The model as faster-whisper loads it, on the GPU if CTranslate2 can use it."""
    # CTranslate2 warns that a CPU computes float16 in float32: that is expected here.
    ctranslate2.set_log_level(logging.ERROR)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    if ctranslate2.get_cuda_device_count():
        load_cuda_libraries()
        try:
            return load_fitting(lambda kind: _encoding(model, kind), "default")[0]
        except RuntimeError as error:
            log.warning("CTranslate2 cannot use the GPU, so the CPU decodes: %s", error)
            gpu_faults.append(error.with_traceback(None))  # it would keep the model in memory
    return UsersModel(str(model), device="cpu", cpu_threads=threads)


def _encoding(model: Path, compute_type: str) -> UsersModel:
    """The model on the GPU, where it has encoded a second of silence."""
    whisper = UsersModel(str(model), device="cuda", compute_type=compute_type)
    whisper.encode(whisper.feature_extractor(np.zeros(SAMPLE_RATE, np.float32)))
    return whisper


def cpu_warnings() -> list[str]:
    """A warning if faster-whisper decodes on the CPU of a machine with a GPU; else none."""
    if not ctranslate2.get_cuda_device_count():
        if not expects_gpu():
            return []
        why = "CTranslate2 sees no GPU: update its driver"
    elif missing := load_cuda_libraries():
        why = f"CTranslate2 lacks {' and '.join(missing)} for the GPU: install 'lorajob[cuda]'"
    elif gpu_faults and says_out_of_memory(gpu_faults[-1]):
        why = "the model does not fit the GPU in any type: use a GPU with more free memory"
    elif gpu_faults:
        told = " ".join(str(gpu_faults[-1]).split())
        why = f"CTranslate2 cannot use the GPU ({told}): install 'lorajob[cuda]'"
    else:
        return []
    return [f"base, delivered and gate were decoded on the CPU, because {why} on this machine"]
