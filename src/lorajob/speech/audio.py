"""Decodes audio files to Whisper's input: float32, mono, 16 kHz."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from lorajob.errors import LorajobError

SAMPLE_RATE = 16_000  # Hz
MAX_CHANNELS = 16
UNKNOWN_FRAMES = 1 << 62  # libsndfile's length of a FLAC written to a pipe, which it cannot read
# A file with a smaller share of the frames in its header is cut off, while its text is complete.
MIN_SHARE_READ = 0.9
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
UNREADABLE = "unreadable audio"

# Formats that PyAV may open. Without this list, a "clip" could be a playlist of other files.
AV_FORMATS = "aac,aiff,amr,asf,caf,flac,matroska,webm,mov,mp4,m4a,3gp,3g2,mp3,mpegts,ogg,opus,wav"

Samples = NDArray[np.float32]


class AudioError(LorajobError):
    """A clip's audio cannot be used. `reason` is one of a few texts, for counting."""

    kind = "audio"

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def over(max_seconds: float) -> str:
    """The reason for dropping a longer clip."""
    return f"over {max_seconds:g} s"


def decode(audio: Path | bytes, max_seconds: float) -> Samples:
    """Samples [-1, 1] of a file or of a file's bytes, in any format of libsndfile or FFmpeg.

    Never decodes more than `max_seconds` and one codec frame. Raises AudioError with the reason
    "unreadable audio" or "over N s".
    """
    try:
        with opened(audio) as file:
            samples, rate = _read(file, max_seconds)
    except OSError as error:
        raise AudioError(UNREADABLE, str(error)) from None
    if not np.isfinite(samples).all():
        raise AudioError(UNREADABLE, "samples are not numbers")
    return resample(samples, rate)


def resample(samples: Samples, rate: int) -> Samples:
    """Mono samples [samples, channels] or [samples] at `rate` Hz, as mono at 16 kHz."""
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    if rate != SAMPLE_RATE and len(mono):
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    clipped: Samples = np.clip(mono, -1, 1, dtype=np.float32)
    return clipped


@contextmanager
def opened(audio: Path | bytes) -> Iterator[IO[bytes]]:
    """A file, or a file's bytes. Raises OSError, also for a pipe or a device."""
    if isinstance(audio, bytes):
        yield io.BytesIO(audio)
    elif not audio.is_file():
        # A pipe or a device may never end.
        raise FileNotFoundError(f"{audio}: no such file")
    else:
        with audio.open("rb") as file:
            yield file


def _read(file: IO[bytes], max_seconds: float) -> tuple[Samples, int]:
    try:
        return _read_soundfile(file, max_seconds)
    except soundfile.LibsndfileError:
        file.seek(0)
        return _read_av(file, max_seconds)


def _read_soundfile(file: IO[bytes], max_seconds: float) -> tuple[Samples, int]:
    with soundfile.SoundFile(file) as sound:
        rate, channels = checked_format(sound.samplerate, sound.channels)
        limit = int(max_seconds * rate)
        if sound.frames >= UNKNOWN_FRAMES:
            raise soundfile.LibsndfileError(0, "length unknown; ")
        if sound.frames > limit:
            raise AudioError(over(max_seconds))
        samples = sound.read(limit + 1, dtype="float32", always_2d=True)
        if len(samples) < MIN_SHARE_READ * sound.frames:
            raise AudioError(UNREADABLE, f"ends after {len(samples)} of {sound.frames} frames")
    # The length in the header was wrong.
    if len(samples) > limit:
        raise AudioError(over(max_seconds))
    return samples.reshape(-1, channels), rate


def _read_av(file: IO[bytes], max_seconds: float) -> tuple[Samples, int]:
    import av

    try:
        with av.open(file, options={"format_whitelist": AV_FORMATS}) as container:
            if not container.streams.audio:
                raise AudioError(UNREADABLE, "no sound in it")
            if container.streams.audio[0].codec_context is None:
                raise AudioError(UNREADABLE, "a codec that FFmpeg does not know here")
            return _decode_stream(container, container.streams.audio[0], max_seconds)
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(UNREADABLE, str(error)) from None


def _decode_stream(container: Any, stream: Any, max_seconds: float) -> tuple[Samples, int]:
    import av

    rate, channels = checked_format(stream.rate, stream.channels)
    limit = int(max_seconds * rate)
    planar = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
    pieces: list[Samples] = []
    count = 0
    for frame in container.decode(stream):
        for piece in planar.resample(frame):
            pieces.append(piece.to_ndarray().T.astype(np.float32, copy=False))
            count += piece.samples
        if count > limit:
            raise AudioError(over(max_seconds))
    if not pieces:
        raise AudioError(UNREADABLE, "no sound in it")
    return np.concatenate(pieces).reshape(-1, channels), rate


def checked_format(rate: int, channels: int) -> tuple[int, int]:
    """Rate in Hz and channels as they are. Raises AudioError if they are out of range."""
    if not (MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS):
        raise AudioError(UNREADABLE, f"{channels} channels at {rate} Hz")
    return rate, channels
