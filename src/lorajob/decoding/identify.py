"""Language identification: which language a model hears in a clip.

A training on one language may turn every answer into that language. So the share of clips of other
languages that a model still identifies is measured before and after.
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


def language_share(
    model: Path,
    clips: Sequence[Callable[[], Samples]],
    languages: Sequence[str],
    compute_type: str = "default",
) -> float:
    """The share, 0 to 1, of clips in which the model hears their own language.

    `languages` are the Whisper codes of the clips. Raises ValueError if the lengths differ or there
    are no clips.
    """
    if len(clips) != len(languages) or not clips:
        raise ValueError(f"{len(clips)} clips of {len(languages)} languages; needs as many, over 0")
    heard = heard_languages(model, clips, compute_type)
    right = sum(code == own for code, own in zip(heard, languages, strict=True))
    return right / len(clips)
