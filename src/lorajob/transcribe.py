"""Transcribe files with a finished job's model, as any user of faster-whisper would.

Files that fit into a window need no padding to 30 s if the model was trained without: that takes
a quarter of the time (bench/RESULTS.md). All by faster-whisper's own model and features, which load
in no time, unlike torch.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel

from lorajob.errors import CorpusError
from lorajob.speech.audio import AudioError, Samples, decode
from lorajob.whisper.tokens import USUAL_TOKENS, Labels
from lorajob.whisper.window import FRAME_SAMPLES, FRAMES_A_SECOND, WINDOW_SECONDS, encoder_frames

BATCH_FILES = 32  # decoded at a time: a step of the decoder reads all its weights for each batch
WAITING_FILES = 64  # held until they are sorted by length; 120 MB at most


def transcribe(
    model: Path, audio: Iterable[Path], language: str, cut: bool = False
) -> Iterator[tuple[Path, str]]:
    """Yield (file, text) for each audio file, greedily and without fallback to sampling.

    `language` is a Whisper language code; `cut` says that the model knows windows that end behind
    the clip. Raises CorpusError for a file that does not decode, once those before it are heard.
    """
    ctranslate2.set_log_level(logging.ERROR)  # it warns that a CPU computes float16 in float32
    whisper = WhisperModel(str(model), device="auto", compute_type="default")
    labels = Labels(model, language)
    waiting: list[tuple[Path, Samples]] = []
    for path in audio:
        samples = _short(path) if cut else None
        if samples is not None:
            waiting.append((path, samples))
        if samples is None or len(waiting) == WAITING_FILES:
            yield from _hear_windows(whisper, waiting, labels)
            waiting = []
        if samples is None:
            yield path, _hear_all(whisper, path, language)
    yield from _hear_windows(whisper, waiting, labels)


def _short(path: Path) -> Samples | None:
    """The samples of a file that leaves room in a window; of others None, of one that we cannot
    read too: faster-whisper may, and else says why not.
    """
    try:
        samples = decode(path, WINDOW_SECONDS)
    except AudioError:
        return None
    return samples if encoder_frames(len(samples)) < WINDOW_SECONDS * FRAMES_A_SECOND else None


def _hear_all(whisper: WhisperModel, path: Path, language: str) -> str:
    """The transcript of a file of any length, by faster-whisper's windows of 30 s."""
    try:
        segments, _ = whisper.transcribe(str(path), language=language, beam_size=1, temperature=0.0)
        return " ".join(segment.text.strip() for segment in segments)
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise CorpusError(f"{path}: cannot be transcribed: {error}") from None


def _hear_windows(
    whisper: WhisperModel, files: Sequence[tuple[Path, Samples]], labels: Labels
) -> Iterator[tuple[Path, str]]:
    """The transcripts of files (samples at 16 kHz), as `evaluate` decodes clips in cut windows,
    those of like length together, but for its limits: how fast people speak here is not known.
    """
    texts = [""] * len(files)
    order = sorted(range(len(files)), key=lambda place: -len(files[place][1]))
    for start in range(0, len(order), BATCH_FILES):
        places = order[start : start + BATCH_FILES]
        samples = FRAME_SAMPLES * encoder_frames(len(files[places[0]][1]))
        heard = [np.pad(files[it][1], (0, samples - len(files[it][1]))) for it in places]
        features = np.stack([whisper.feature_extractor(it, padding=0) for it in heard])
        results = whisper.model.generate(
            whisper.encode(features),
            [labels.prompt] * len(places),
            beam_size=1,
            max_length=2 * USUAL_TOKENS,  # CTranslate2 generates at most half of it
            suppress_blank=True,
        )
        for place, result in zip(places, results, strict=True):
            texts[place] = labels.decode(result.sequences_ids[0])
    for (path, _), text in zip(files, texts, strict=True):
        yield path, text
