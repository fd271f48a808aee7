"""Transcribe files with a finished job's model, as any user of faster-whisper would.

Files that fit into a window need no padding to 30 s if the model was trained without: that takes a
third of the time. All by faster-whisper's own parts, which load in no time, unlike torch.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import decode_audio

from lorajob.audio import Samples
from lorajob.errors import CorpusError
from lorajob.packing import FRAME_SAMPLES, FRAMES_A_SECOND, WINDOW_SECONDS, encoder_frames
from lorajob.tokens import USUAL_TOKENS, Labels


def transcribe(
    model: Path, audio: Iterable[Path], language: str, cut: bool = False
) -> Iterator[tuple[Path, str]]:
    """Yield (file, text) for each audio file, greedily and without fallback to sampling.

    `language` is a Whisper language code; `cut` says that the model knows windows that end behind
    the clip. Raises CorpusError for a file that does not decode.
    """
    ctranslate2.set_log_level(logging.ERROR)  # it warns that a CPU computes float16 in float32
    whisper = WhisperModel(str(model), device="auto", compute_type="default")
    labels = Labels(model, language)
    for path in audio:
        try:
            samples = decode_audio(str(path))
            if cut and encoder_frames(len(samples)) < WINDOW_SECONDS * FRAMES_A_SECOND:
                yield path, _hear_window(whisper, samples, labels)
                continue
            segments, _ = whisper.transcribe(
                samples, language=language, beam_size=1, temperature=0.0
            )
            yield path, " ".join(segment.text.strip() for segment in segments)
        except (OSError, ValueError, RuntimeError, IndexError) as error:
            raise CorpusError(f"{path}: cannot be transcribed: {error}") from None


def _hear_window(whisper: WhisperModel, samples: Samples, labels: Labels) -> str:
    """The transcript of samples at 16 kHz, as `evaluate` decodes a clip that is not padded."""
    silence = FRAME_SAMPLES * encoder_frames(len(samples)) - len(samples)
    features = whisper.feature_extractor(np.pad(samples, (0, silence)), padding=0)
    (result,) = whisper.model.generate(
        whisper.encode(features),
        [labels.prompt],
        beam_size=1,
        max_length=2 * USUAL_TOKENS,  # CTranslate2 generates at most half of it
        suppress_blank=True,
    )
    return labels.decode(result.sequences_ids[0])
