"""Reads audio files of any length to Whisper's input: float32, mono, 16 kHz."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lorajob.speech.audio import (
    AV_FORMATS,
    NO_SOUND,
    NOT_AUDIO,
    SAMPLE_RATE,
    AudioError,
    Samples,
    load_audio,
    over,
)

SHORT_SECONDS = 30.0  # up to this length a file is read as clips are
GROUPED_SAMPLES = 500_000  # resampled at a time, as by faster-whisper
# Formats, beside those of corpora, that hold sound themselves and name no other files.
MORE_FORMATS = "ac3,ape,au,avi,dts,eac3,flv,mpeg,tta,w64,wv"


def load_any_length(path: Path, max_seconds: float = math.inf) -> Samples:
    """The samples of a file at 16 kHz. A file of up to 30 s is read as the clips of a corpus.

    Raises AudioError for a file that has no sound, and for one longer than `max_seconds`, of which
    never much more is decoded.
    """
    try:
        return load_audio(path, SHORT_SECONDS)
    except AudioError:
        pass
    return _read_in_pieces(path, max_seconds)


def _read_in_pieces(path: Path, max_seconds: float) -> Samples:
    """As faster-whisper reads files: resampled in pieces, to 16 bits.

    Its own function opens playlists too, which name other files and servers.
    """
    import av
    from av.audio.fifo import AudioFifo

    formats = f"{AV_FORMATS},{MORE_FORMATS}"
    pieces: list[Samples] = []
    count = 0
    try:
        with av.open(
            path, metadata_errors="ignore", options={"format_whitelist": formats}
        ) as container:
            if not container.streams.audio:
                raise AudioError(NO_SOUND, f"only {container.format.long_name}")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            for frame in _grouped(container.decode(audio=0), AudioFifo()):
                for piece in resampler.resample(frame):
                    samples = piece.to_ndarray().reshape(-1).astype(np.float32)
                    pieces.append(samples / np.float32(32768))
                    count += len(samples)
                if count > max_seconds * SAMPLE_RATE:
                    raise AudioError(over(max_seconds))
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        raise AudioError(NOT_AUDIO, str(error).partition(": '")[0]) from None
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _grouped(frames: Iterator[Any], fifo: Any) -> Iterator[Any]:
    """Longer frames, without those that are damaged; then None, which flushes a resampler."""
    import av

    while True:
        try:
            frame = next(frames, None)
        except av.InvalidDataError:
            continue
        if frame is None:
            break
        frame.pts = None
        fifo.write(frame)
        if fifo.samples >= GROUPED_SAMPLES:
            yield fifo.read()
    if fifo.samples:
        yield fifo.read()
    yield None
