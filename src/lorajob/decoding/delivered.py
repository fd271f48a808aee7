"""Decodes a model as its users do: by faster-whisper with its own defaults, the language given.

Clips are decoded one at a time, with timestamps, beams and fallback. That takes several times as
long as the fast decoder, and far longer on a clip whose transcript repeats itself.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel

from lorajob.decoding.fast import Sound
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.whisper.cuda_libraries import load_cuda_libraries

FEWEST_CLIPS = 8  # decoded even if the time is over

log = logging.getLogger(__name__)


def listen(
    model: Path,
    language: str,
    sounds: Sequence[Sound],
    seed: int = 0,
    seconds: float | None = None,
    done: Callable[[int], None] = lambda clips: None,
) -> list[str]:
    """The transcripts of the first of `sounds`, as many as `seconds` of time allow.

    `done` is called after each clip. `seed` decides what is sampled where a transcript trips one of
    Whisper's thresholds.
    """
    ctranslate2.set_random_seed(seed)
    whisper = load_for_users(model)
    started = time.monotonic()
    texts: list[str] = []
    for sound in sounds:
        spent = time.monotonic() - started
        if seconds is not None and spent > seconds and len(texts) >= FEWEST_CLIPS:
            log.info("%d of %d clips in %.0f s", len(texts), len(sounds), spent)
            break
        segments, _ = whisper.transcribe(sound.read(), language=language)
        texts.append(" ".join(segment.text.strip() for segment in segments))
        done(len(texts))
    return texts


def load_for_users(model: Path) -> WhisperModel:
    """The model as faster-whisper loads it, on the GPU if CTranslate2 can use it."""
    # CTranslate2 warns that a CPU computes float16 in float32: that is expected here.
    ctranslate2.set_log_level(logging.ERROR)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    if ctranslate2.get_cuda_device_count():
        load_cuda_libraries()
        whisper = WhisperModel(str(model), device="cuda")
        try:
            whisper.encode(whisper.feature_extractor(np.zeros(SAMPLE_RATE, np.float32)))
            return whisper
        # The libraries that CTranslate2 needs are missing.
        except RuntimeError as error:
            log.warning("CTranslate2 cannot use the GPU, so the CPU decodes: %s", error)
    return WhisperModel(str(model), device="cpu")


def cpu_warnings() -> list[str]:
    """A warning if faster-whisper decodes on the CPU of a machine with a GPU; else none."""
    if not ctranslate2.get_cuda_device_count() or not (missing := load_cuda_libraries()):
        return []
    return [
        f"base, delivered and gate were decoded on the CPU, because CTranslate2 lacks "
        f"{' and '.join(missing)} for the GPU: install 'lorajob[cuda]' on this machine"
    ]
