"""Language identification: which language a model hears in a clip.

A training on one language may turn every answer into that language. So the share of clips of other
languages that a model still identifies is measured before and after (quality.py).
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import ctranslate2

from lorajob.decoding.windows import extractor, features
from lorajob.speech.audio import Samples

BATCH_WINDOWS = 16


def heard_languages(
    model: Path,
    clips: Sequence[Callable[[], Samples]],
    compute_type: str = "default",
    batch_windows: int = BATCH_WINDOWS,
) -> list[str]:
    """The Whisper language code that the CTranslate2 model in `model` hears in each clip.

    `clips` are functions that read samples at 16 kHz; at most their first 30 s are heard, as in
    openai/whisper's `detect_language`.
    """
    ctranslate2.set_log_level(logging.ERROR)
    device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
    whisper = ctranslate2.models.Whisper(str(model), device=device, compute_type=compute_type)
    extract = extractor(whisper.n_mels)
    codes: list[str] = []
    for start in range(0, len(clips), batch_windows):
        samples = [read() for read in clips[start : start + batch_windows]]
        mel = ctranslate2.StorageView.from_array(features(extract, samples, cut=False))
        codes += [ranked[0][0].strip("<|>") for ranked in whisper.detect_language(mel)]
    return codes
