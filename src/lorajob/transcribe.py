"""Transcribe files with a finished job's model, as any user of faster-whisper would."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import ctranslate2
from faster_whisper import WhisperModel

from lorajob.errors import CorpusError


def transcribe(model: Path, audio: Iterable[Path], language: str) -> Iterator[tuple[Path, str]]:
    """Yield (file, text) for each audio file, greedily and without fallback to sampling.

    `language` is a Whisper language code. Raises CorpusError for a file that does not decode.
    """
    ctranslate2.set_log_level(logging.ERROR)  # it warns that a CPU computes float16 in float32
    whisper = WhisperModel(str(model), device="auto", compute_type="default")
    for path in audio:
        try:
            segments, _ = whisper.transcribe(
                str(path), language=language, beam_size=1, temperature=0.0
            )
            yield path, " ".join(segment.text.strip() for segment in segments)
        except (OSError, ValueError, RuntimeError, IndexError) as error:
            raise CorpusError(f"{path}: cannot be transcribed: {error}") from None
