"""Transcribe files with a finished job's model, as it was scored.

The settings are those that travel with the model (`lorajob.json`). Features are faster-whisper's
own, which load much faster than torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorajob.decoding.config import DecodeConfig
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.decoding.long_form import piece_bounds
from lorajob.errors import CorpusError
from lorajob.languages import find_language
from lorajob.speech.audio import SAMPLE_RATE, AudioError, Samples
from lorajob.speech.long_audio import load_any_length
from lorajob.speech.spoken import FileTranscript, Passage

WAITING_SECONDS = 600.0  # audio held in memory to be sorted by length; 40 MB


@dataclass(frozen=True)
class _Waiting:
    """A file that was read, and the (start, end) of its pieces in samples."""

    path: Path
    samples: Samples
    bounds: list[tuple[int, int]]


def transcribe(
    model: Path, audio: Iterable[Path], config: DecodeConfig
) -> Iterator[tuple[Path, str]]:
    """Yield (file, text) for each audio file, of any length, in their order.

    A file longer than a window is split in its pauses. Raises CorpusError for a file that
    cannot be decoded, after yielding the files before it.
    """
    for heard in transcribe_files(model, audio, config):
        yield heard.path, heard.text


def transcribe_files(
    model: Path, audio: Iterable[Path], config: DecodeConfig
) -> Iterator[FileTranscript]:
    """The same, with the times of the pieces that a file was split into."""
    decoder = FastDecoder(model, config)
    waiting: list[_Waiting] = []
    seconds = 0.0
    for path in audio:
        try:
            samples = _read(path)
        except CorpusError:
            yield from _hear(decoder, waiting)
            raise
        waiting.append(_Waiting(path, samples, piece_bounds(samples, config.limits.seconds)))
        seconds += len(samples) / SAMPLE_RATE
        if seconds >= WAITING_SECONDS:
            yield from _hear(decoder, waiting)
            waiting, seconds = [], 0.0
    yield from _hear(decoder, waiting)


def _read(path: Path) -> Samples:
    """The samples of a file at 16 kHz. Raises CorpusError."""
    try:
        return load_any_length(path)
    except AudioError as error:
        raise CorpusError(f"{path}: cannot be transcribed: {error}") from None


def _hear(decoder: FastDecoder, files: Sequence[_Waiting]) -> Iterator[FileTranscript]:
    """Decode files. Pieces of similar length share a batch."""
    space = "" if find_language(decoder.config.language).primary_metric == "cer" else " "
    pieces = [Sound.of(it.samples[start:end]) for it in files for start, end in it.bounds]
    heard = iter(decoder.decode(pieces))
    for file in files:
        passages = []
        for start, end in file.bounds:
            text = next(heard).text
            if text:
                passages.append(Passage(start / SAMPLE_RATE, end / SAMPLE_RATE, text))
        text = space.join(it.text for it in passages)
        yield FileTranscript(file.path, len(file.samples) / SAMPLE_RATE, text, tuple(passages))
