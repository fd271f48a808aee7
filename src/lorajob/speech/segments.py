"""Cuts segments out of a recording. It is decoded once, as a stream, however long it is."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile

from lorajob.speech.audio import (
    AV_FORMATS,
    NO_SOUND,
    UNKNOWN_FRAMES,
    UNREADABLE,
    AudioError,
    Samples,
    checked_format,
    mixed,
    opened,
    over,
    resample,
    unreadable,
)
from lorajob.speech.containers import completed, find_data
from lorajob.speech.pauses import CONTEXT_SECONDS, nearest_pause

BLOCK_SECONDS = 5
# Times in tables are rounded, and codecs pad: a segment may end this much after its recording.
TOLERANCE_SECONDS = 0.1
LONGEST_SECONDS = 1e9  # of any recording
FIXED = (0.0, 0.0)  # the slack of ends that stay where they are
BEYOND = "segment beyond the recording's end"
OTHER_UNIT = "segment far beyond the recording's end: its times may be in samples or milliseconds"
FAR_TIMES = 10.0  # an end at more times its recording's length is one in another unit
MOST_A_SECOND = 48_000  # of the samples that people count by
WRONG_TIMES = "segment that ends before it starts"


@dataclass(frozen=True)
class Cut:
    """A part of a recording: samples [samples, channels] at `rate` Hz."""

    samples: Samples
    rate: int
    in_speech: bool = False  # whether an end with slack is in speech, because no pause was near

    def mono(self) -> Samples:
        """The samples as Whisper hears them, mono at 16 kHz."""
        return resample(self.samples, self.rate)


def cut(
    audio: Path | bytes,
    spans: Sequence[tuple[float, float | None]],
    max_seconds: float,
    slacks: Sequence[tuple[float, float]] = (),
) -> Iterator[Cut | AudioError]:
    """Yield the part of each span, or why it cannot be used.

    `spans` are (start, end) in seconds, sorted by start. An end of None is the recording's end. At
    most `max_seconds`, or the overlap of spans, and one block are in memory.

    `slacks`, if given, are for each span the seconds by which its start and its end may move to a
    pause in the speech.
    """
    done = 0
    try:
        with opened(audio) as file, _stream(file) as stream:
            if slacks:
                stream.keep_behind(CONTEXT_SECONDS)
            for number, (start, end) in enumerate(spans):
                slack = slacks[number] if slacks else FIXED
                found = _one(stream, start, end, max_seconds, slack)
                done += 1
                yield found
    except AudioError as error:
        yield from [error] * (len(spans) - done)
    except OSError as error:
        fault = unreadable(error)
        if not isinstance(fault, AudioError):
            raise fault from None
        yield from [fault] * (len(spans) - done)


def _one(
    stream: "_Stream", start: float, end: float | None, most: float, slack: tuple[float, float]
) -> Cut | AudioError:
    if start < 0 or (end is not None and end <= start):
        return AudioError(WRONG_TIMES, f"from {start:g} s to {end} s")
    if end is not None and (fault := far_beyond(end, stream.seconds)) is not None:
        return fault
    if end is not None and round(end - start, 6) > most:
        return AudioError(over(most))
    first = round(start * stream.rate)
    # The start may move later, and the rest of the recording must not be cut off silently.
    wanted = end if end is not None else start + slack[0] + most + TOLERANCE_SECONDS
    last = round(min(wanted, LONGEST_SECONDS) * stream.rate)
    in_speech = False
    if slack == FIXED:
        samples = stream.read(first, last)
    else:
        samples, in_speech = _between_pauses(stream, first, last, slack)
        if end is not None and len(samples) > most * stream.rate:
            return AudioError(over(most))
    if stream.ended and end is not None:
        missing = end - stream.end / stream.rate
        if missing > TOLERANCE_SECONDS or not len(samples):
            whole = stream.end / stream.rate
            return AudioError(BEYOND, f"ends at {end:g} s of {whole:.2f} s")
    if not len(samples):
        return AudioError(BEYOND, f"starts at {start:g} s of {stream.end / stream.rate:.2f} s")
    # Rounding start and end may add a sample.
    if len(samples) > most * stream.rate:
        if end is None:
            return AudioError(over(most))
        samples = samples[: round(most * stream.rate)]
    if not np.isfinite(samples).all():
        return AudioError(UNREADABLE, "samples are not numbers")
    return Cut(samples, stream.rate, in_speech)


def far_beyond(end: float, whole: float | None) -> AudioError | None:
    """The fault of a segment whose times are in samples or milliseconds, not in seconds.

    `whole` is the recording's length in seconds by its header; None if it states none.
    """
    if not whole or not FAR_TIMES * whole < end <= MOST_A_SECOND * (whole + TOLERANCE_SECONDS):
        return None
    return AudioError(OTHER_UNIT, f"ends at {end:g} s of {whole:.2f} s")


def _between_pauses(
    stream: "_Stream", first: int, last: int, slack: tuple[float, float]
) -> tuple[Samples, bool]:
    """The samples between the pauses nearest to two places, and whether one of these has none."""
    context = round(CONTEXT_SECONDS * stream.rate)
    begin = max(0, first - context)
    heard = stream.read(begin, last + context)
    mono = mixed(heard)
    places = [first - begin, min(last - begin, len(mono))]
    in_speech = False
    for number, seconds in enumerate(slack):
        if seconds:
            at = round(seconds * stream.rate)
            pause = nearest_pause(mono, stream.rate, places[number], at)
            in_speech = in_speech or pause is None
            places[number] = places[number] if pause is None else pause
    return heard[places[0] : places[1]], in_speech


class _Stream:
    """Decoded blocks, of which it keeps those that the current span needs."""

    def __init__(
        self, rate: int, channels: int, blocks: Iterator[Samples], seconds: float | None
    ) -> None:
        self.rate, self._channels, self._blocks = rate, channels, blocks
        self.seconds = seconds  # the length by the header; None: not stated
        self._kept: deque[Samples] = deque()
        self._first = 0  # number of the first sample that is kept
        self.end = 0  # samples decoded so far
        self.ended = False
        self._behind = 0

    def keep_behind(self, seconds: float) -> None:
        """Let `first` fall by so many seconds between two calls of `read`."""
        self._behind = round(seconds * self.rate)

    def read(self, first: int, last: int) -> Samples:
        """Samples `first` to `last`, fewer at the end. `first` never falls between two calls."""
        while not self.ended and self.end < last:
            self._drop(first)
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
                break
            self._kept.append(block)
            self.end += len(block)
        self._drop(first)
        if not self._kept:
            return np.zeros((0, self._channels), np.float32)
        joined = np.concatenate(self._kept)
        return joined[max(0, first - self._first) : max(0, last - self._first)]

    def _drop(self, first: int) -> None:
        first -= self._behind
        while self._kept and self._first + len(self._kept[0]) <= first:
            self._first += len(self._kept.popleft())


@contextmanager
def _stream(file: IO[bytes]) -> Iterator[_Stream]:
    data = find_data(file)
    if data is not None and data.promised is None:
        file = completed(file, data)
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError:
        sound = None
    if sound is not None and sound.frames < UNKNOWN_FRAMES:
        with sound:
            rate, channels = checked_format(sound.samplerate, sound.channels)
            seconds = float(sound.frames / rate)
            yield _Stream(rate, channels, _soundfile_blocks(sound), seconds)
        return
    file.seek(0)
    with _av_stream(file) as stream:
        yield stream


def _soundfile_blocks(sound: soundfile.SoundFile) -> Iterator[Samples]:
    try:
        while len(block := sound.read(BLOCK_SECONDS * sound.samplerate, "float32", True)):
            yield block
    except soundfile.LibsndfileError as error:
        raise AudioError(UNREADABLE, str(error)) from None


@contextmanager
def _av_stream(file: IO[bytes]) -> Iterator[_Stream]:
    import av

    try:
        with av.open(file, "r", options={"format_whitelist": AV_FORMATS}) as container:
            if not container.streams.audio:
                raise AudioError(NO_SOUND)
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError(UNREADABLE, "a codec that FFmpeg does not know here")
            rate, channels = checked_format(stream.rate, stream.channels)
            whole = container.duration
            seconds = None if whole is None else whole / av.time_base
            yield _Stream(rate, channels, _av_blocks(container, stream, channels), seconds)
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(UNREADABLE, str(error)) from None


def _av_blocks(container: Any, stream: Any, channels: int) -> Iterator[Samples]:
    import av

    planar = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    for frame in container.decode(stream):
        for piece in planar.resample(frame):
            yield piece.to_ndarray().T.astype(np.float32, copy=False).reshape(-1, channels)
