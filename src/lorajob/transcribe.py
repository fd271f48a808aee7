"""Transcribe files with a finished job's model, as it was scored.

The settings are those that travel with the model (`lorajob.json`). Features are faster-whisper's
own, which load much faster than torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from faster_whisper.audio import decode_audio

from lorajob.decoding.config import DecodeConfig
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.decoding.long_form import split
from lorajob.errors import CorpusError
from lorajob.languages import find_language
from lorajob.speech.audio import SAMPLE_RATE, AudioError, Samples, load_audio
from lorajob.whisper.window import WINDOW_SECONDS

WAITING_SECONDS = 600.0  # audio held in memory to be sorted by length; 40 MB


def transcribe(
    model: Path, audio: Iterable[Path], config: DecodeConfig
) -> Iterator[tuple[Path, str]]:
    """Yield (file, text) for each audio file, of any length, in their order.

    A file longer than a window is split in its pauses. Raises CorpusError for a file that
    cannot be decoded, after yielding the files before it.
    """
    decoder = FastDecoder(model, config)
    waiting: list[tuple[Path, list[Samples]]] = []
    seconds = 0.0
    for path in audio:
        try:
            samples = _read(path)
        except CorpusError:
            yield from _hear(decoder, waiting)
            raise
        waiting.append((path, split(samples, config.limits.seconds)))
        seconds += len(samples) / SAMPLE_RATE
        if seconds >= WAITING_SECONDS:
            yield from _hear(decoder, waiting)
            waiting, seconds = [], 0.0
    yield from _hear(decoder, waiting)


def _read(path: Path) -> Samples:
    """The samples of a file at 16 kHz. Raises CorpusError."""
    try:
        return load_audio(path, WINDOW_SECONDS)
    except AudioError:
        pass
    # faster-whisper reads long files in pieces, and knows more formats.
    try:
        samples: Samples = decode_audio(str(path), sampling_rate=SAMPLE_RATE)
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise CorpusError(f"{path}: cannot be transcribed: {error}") from None
    return samples


def _hear(
    decoder: FastDecoder, files: Sequence[tuple[Path, list[Samples]]]
) -> Iterator[tuple[Path, str]]:
    """Yield (file, text) for files given as pieces. Pieces of similar length share a batch."""
    space = "" if find_language(decoder.config.language).primary_metric == "cer" else " "
    heard = iter(decoder.decode([Sound.of(piece) for _, pieces in files for piece in pieces]))
    for path, pieces in files:
        texts = [next(heard).text for _ in pieces]
        yield path, space.join(text for text in texts if text)
