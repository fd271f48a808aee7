"""Transcribe files with a finished job's model, as a user of faster-whisper does.

If the model was trained on cut windows, a file that fits into a window is not padded to 30 s. It
then takes a quarter of the time (bench/RESULTS.md). Model and features are faster-whisper's own,
which load much faster than torch.
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

# Files decoded at a time. The decoder reads all its weights at each step of a batch, so larger
# batches cost less.
BATCH_FILES = 32
WAITING_FILES = 64  # files held in memory to be sorted by length; 120 MB at most


def transcribe(
    model: Path, audio: Iterable[Path], language: str, cut: bool = False
) -> Iterator[tuple[Path, str]]:
    """Yield (file, text) for each audio file. Decoding is greedy, without fallback to sampling.

    `language` is a Whisper language code. `cut` says that the model was trained on cut windows.
    Raises CorpusError for a file that cannot be decoded, after yielding the files before it.
    """
    # CTranslate2 warns that a CPU computes float16 in float32: that is expected here.
    ctranslate2.set_log_level(logging.ERROR)
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
    """The samples of a file that is shorter than a window, else None.

    None also for a file that cannot be read here: faster-whisper may be able to read it, and
    otherwise raises an error with the reason.
    """
    try:
        samples = decode(path, WINDOW_SECONDS)
    except AudioError:
        return None
    return samples if encoder_frames(len(samples)) < WINDOW_SECONDS * FRAMES_A_SECOND else None


def _hear_all(whisper: WhisperModel, path: Path, language: str) -> str:
    """The transcript of a file of any length, in faster-whisper's windows of 30 s."""
    try:
        segments, _ = whisper.transcribe(str(path), language=language, beam_size=1, temperature=0.0)
        return " ".join(segment.text.strip() for segment in segments)
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise CorpusError(f"{path}: cannot be transcribed: {error}") from None


def _hear_windows(
    whisper: WhisperModel, files: Sequence[tuple[Path, Samples]], labels: Labels
) -> Iterator[tuple[Path, str]]:
    """Yield (file, text) for files given as samples at 16 kHz, in cut windows, as in `evaluate`.

    Files of similar length are decoded together. Unlike `evaluate`, the limit of tokens does not
    depend on the speaking rate, which is unknown here.
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
            # CTranslate2 generates at most half of max_length.
            max_length=2 * USUAL_TOKENS,
            suppress_blank=True,
        )
        for place, result in zip(places, results, strict=True):
            texts[place] = labels.decode(result.sequences_ids[0])
    for (path, _), text in zip(files, texts, strict=True):
        yield path, text
