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

from lorajob.errors import FilesError, LorajobError, of_machine
from lorajob.speech.containers import (
    completed,
    ends_inside,
    find_data,
    has_frame_count,
    is_container,
)
from lorajob.visible import encodable

SAMPLE_RATE = 16_000  # Hz
MAX_CHANNELS = 16
UNKNOWN_FRAMES = 1 << 62  # libsndfile's length of a FLAC written to a pipe, which it cannot read
# A file with less sound than its header promises is cut off, while its text is complete.
MISSING_SECONDS = 0.1
# Containers whose headers know the length. FFmpeg only estimates that of others.
AV_PROMISES = frozenset(
    {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flac", "avi", "flv", "wv", "tta", "ape"}
)
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
# A sum of channels that is this much quieter than one of them has lost its sound.
CANCELLED_SHARE = 0.25
OVERDRIVEN = 1.5  # peak from which samples are scaled down. Codecs overshoot 1 a little.

NOT_FOUND = "not found"
NOT_AUDIO = "not audio"
TRUNCATED = "truncated"
NO_SOUND = "no sound in the file"
UNREADABLE = "unreadable audio"
# What may be mended in the files. The other reasons are facts about the sound.
FILE_FAULTS = frozenset({NOT_FOUND, NOT_AUDIO, TRUNCATED, NO_SOUND, UNREADABLE})

# Formats that PyAV may open. Without this list, a "clip" could be a playlist of other files.
AV_FORMATS = (
    "aac,aiff,amr,asf,caf,flac,matroska,webm,mov,mp4,m4a,3gp,3g2,mp3,mpegts,ogg,opus,wav,"
    "ac3,eac3,ape,avi,flv,mpeg,tta,wv"
)

Samples = NDArray[np.float32]


class AudioError(LorajobError):
    """A clip's audio cannot be used. `reason` is one of a few texts, for counting."""

    kind = "audio"

    def __init__(self, reason: str, detail: str = "") -> None:
        # A detail may be the name of a file. It is written to reports and tables.
        detail = encodable(detail)
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def over(max_seconds: float) -> str:
    """The reason for dropping a longer clip."""
    return f"too long, over {max_seconds:g} s"


def load_audio(audio: Path | bytes, max_seconds: float) -> Samples:
    """Samples [-1, 1] of a file or of a file's bytes, in any format of libsndfile or FFmpeg.

    Never decodes more than `max_seconds` and one codec frame. Raises AudioError with one of
    FILE_FAULTS or `over` as reason. A file that holds less than its header promises is truncated.
    Raises FilesError if the disk or share fails.
    """
    try:
        with opened(audio) as file:
            samples, rate = _read(file, max_seconds)
    except OSError as error:
        raise unreadable(error) from None
    if not np.isfinite(samples).all():
        raise AudioError(UNREADABLE, "samples are not numbers")
    return resample(samples, rate)


def resample(samples: Samples, rate: int) -> Samples:
    """Mono samples [samples, channels] or [samples] at `rate` Hz, as mono at 16 kHz."""
    mono = mixed(samples) if samples.ndim == 2 else samples
    peak = float(np.abs(mono).max(initial=0.0))
    if peak > OVERDRIVEN:
        mono = mono / np.float32(peak)
    if rate != SAMPLE_RATE and len(mono):
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    clipped: Samples = np.clip(mono, -1, 1, dtype=np.float32)
    return clipped


def mixed(samples: Samples) -> Samples:
    """One channel of [samples, channels]: the mean, or the loudest if the channels cancel."""
    mono: Samples = samples.mean(axis=1)
    if samples.shape[1] == 1 or not len(samples):
        return mono
    powers = np.square(samples).mean(axis=0)
    if np.square(mono).mean() < CANCELLED_SHARE**2 * powers.max():
        return samples[:, int(powers.argmax())]
    return mono


@contextmanager
def opened(audio: Path | bytes) -> Iterator[IO[bytes]]:
    """A file, or a file's bytes. Raises OSError, also for a device.

    Raises AudioError for a file that is missing, and for one that is not sound at all. Missing
    audio is empty bytes.
    """
    if isinstance(audio, bytes):
        if not audio:
            raise AudioError(NOT_FOUND)
        checked_kind(audio[:16])
        yield io.BytesIO(audio)
    elif not audio.is_file():
        # A pipe or a device may never end.
        raise AudioError(NOT_FOUND, str(audio))
    else:
        raw = NotingFile(audio)
        with io.BufferedReader(raw) as file:
            try:
                checked_kind(file.read(16))
                file.seek(0)
                yield file
            finally:
                if raw.fault is not None:
                    raise raw.fault


class NotingFile(io.FileIO):
    """A file that ends where its disk or share fails, and keeps the error.

    libsndfile cannot pass on an exception: it would print it, and take the file for cut off.
    """

    fault: OSError | None = None

    def readinto(self, buffer: Any) -> int:
        """Read as FileIO does."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            self._note(error)
            return 0

    def readall(self) -> bytes:
        """Read as FileIO does."""
        try:
            return super().readall()
        except OSError as error:
            self._note(error)
            return b""

    def _note(self, error: OSError) -> None:
        error.filename = str(self.name)
        self.fault = error


def unreadable(error: OSError) -> LorajobError:
    """FilesError if the disk or share of this machine fails, AudioError if the file is at fault."""
    if of_machine(error):
        return FilesError(f"{error.filename}: {error.strerror}; this machine cannot read its files")
    return AudioError(UNREADABLE, str(error))


def checked_kind(head: bytes) -> None:
    """Raise AudioError if a file with these first bytes cannot be sound."""
    if not head:
        raise AudioError(NOT_AUDIO, "0 bytes")
    printable = sum(byte >= 0x20 or byte in b"\t\r\n" for byte in head)
    if not is_container(head) and printable == len(head):
        raise AudioError(NOT_AUDIO, f"begins with {head.decode('utf-8', 'replace')!r}")


def _read(file: IO[bytes], max_seconds: float) -> tuple[Samples, int]:
    data = find_data(file)
    if data is not None and data.promised is None:
        file = completed(file, data)
    head = file.read(4096)
    file.seek(0)
    try:
        samples, rate = _read_soundfile(file, max_seconds, has_frame_count(head))
    except soundfile.LibsndfileError:
        file.seek(0)
        if data is not None and data.missing_share > 1:
            raise AudioError(TRUNCATED, "its header promises more") from None
        samples, rate = _read_av(file, max_seconds, head)
    if ends_inside(file):
        raise AudioError(TRUNCATED, f"after {len(samples) / rate:.2f} s")
    if data is not None and data.missing_share and not len(samples):
        raise AudioError(TRUNCATED, "its header promises more")
    if data is not None:
        _check_length(len(samples) / rate * (1 + data.missing_share), len(samples) / rate)
    return samples, rate


def _check_length(promised: float, seconds: float) -> None:
    """Raise AudioError if a file has less sound than its header promises, both in seconds."""
    if promised - seconds > MISSING_SECONDS:
        raise AudioError(TRUNCATED, f"{seconds:.2f} s of {promised:.2f} s")


def _read_soundfile(file: IO[bytes], max_seconds: float, counted: bool) -> tuple[Samples, int]:
    with soundfile.SoundFile(file) as sound:
        rate, channels = checked_format(sound.samplerate, sound.channels)
        limit = int(max_seconds * rate)
        if sound.frames >= UNKNOWN_FRAMES:
            raise soundfile.LibsndfileError(0, "length unknown; ")
        if sound.frames > limit:
            raise AudioError(over(max_seconds))
        samples = sound.read(limit + 1, dtype="float32", always_2d=True)
        # The length of other MP3 files is an estimate.
        if counted or sound.format != "MP3":
            _check_length(sound.frames / rate, len(samples) / rate)
    # The length in the header was wrong.
    if len(samples) > limit:
        raise AudioError(over(max_seconds))
    return samples.reshape(-1, channels), rate


def _read_av(file: IO[bytes], max_seconds: float, head: bytes) -> tuple[Samples, int]:
    import av

    try:
        with av.open(file, options={"format_whitelist": AV_FORMATS}) as container:
            stream = _first_stream(container)
            promised = _promised_seconds(container, stream, head)
            samples, rate = _decode_stream(container, stream, max_seconds)
            _check_length(promised, len(samples) / rate)
            if not len(samples):
                raise AudioError(NO_SOUND)
            return samples, rate
    except (av.FFmpegError, ValueError) as error:
        # A file that begins as sound and cannot be read to its end.
        raise AudioError(TRUNCATED if is_container(head) else NOT_AUDIO, _in_words(error)) from None


def _in_words(error: Exception) -> str:
    return str(error).partition(":")[0].partition("] ")[2] or str(error)


def _promised_seconds(container: Any, stream: Any, head: bytes) -> float:
    """The length of the sound by the header; 0 if it does not say. `head` is its first bytes."""
    counted = container.format.name == "mp3" and has_frame_count(head)
    if container.format.name not in AV_PROMISES and not counted:
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and not container.streams.video:
        return float(container.duration) / 1e6
    return 0.0


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
        return np.zeros((0, channels), np.float32), rate
    return np.concatenate(pieces).reshape(-1, channels), rate


def checked_format(rate: int, channels: int) -> tuple[int, int]:
    """Rate in Hz and channels as they are. Raises AudioError if they are out of range."""
    if not (MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS):
        raise AudioError(UNREADABLE, f"{channels} channels at {rate} Hz")
    return rate, channels


def length(audio: Path | bytes) -> float:
    """The length in seconds by the header alone. Raises AudioError as `load_audio` does.

    What only decoding shows is not found. Headerless MP3 and AAC have an estimated length.
    """
    try:
        with opened(audio) as file:
            return _header_seconds(file)
    except OSError as error:
        raise unreadable(error) from None


def _header_seconds(file: IO[bytes]) -> float:
    data = find_data(file)
    if ends_inside(file):
        raise AudioError(TRUNCATED, "it ends within a part of it")
    if data is not None and data.promised is None:
        file = completed(file, data)
    head = file.read(4096)
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            rate, _ = checked_format(sound.samplerate, sound.channels)
            if sound.frames >= UNKNOWN_FRAMES:
                raise soundfile.LibsndfileError(0, "length unknown; ")
            seconds = float(sound.frames / rate)
    except soundfile.LibsndfileError:
        file.seek(0)
        if data is not None and data.missing_share > 1:
            raise AudioError(TRUNCATED, "its header promises more") from None
        return _av_header_seconds(file, head)
    if data is not None:
        _check_length(seconds * (1 + data.missing_share), seconds)
    return seconds


def _first_stream(container: Any) -> Any:
    """The first stream of audio. Raises AudioError."""
    if not container.streams.audio:
        raise AudioError(NO_SOUND, f"only {container.format.long_name}")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise AudioError(UNREADABLE, "a codec that FFmpeg does not know here")
    return stream


def _av_header_seconds(file: IO[bytes], head: bytes) -> float:
    import av

    try:
        with av.open(file, options={"format_whitelist": AV_FORMATS}) as container:
            stream = _first_stream(container)
            checked_format(stream.rate, stream.channels)
            whole = float(getattr(container, "duration", 0) or 0) / 1e6
            return _promised_seconds(container, stream, head) or whole
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(TRUNCATED if is_container(head) else NOT_AUDIO, _in_words(error)) from None
