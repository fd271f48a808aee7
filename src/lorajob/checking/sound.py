"""What the check measures in the sound of a clip: speech, noise, bandwidth and a fingerprint.

The fingerprint is that of Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR
2002): for each frame 24 bits, the signs of differences of energy between neighbouring bands and a
quarter of a second. It survives other codecs, other levels and trimmed edges. Two recordings of one
sentence by the same speaker differ in nearly half of the bits.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorajob.speech.audio import SAMPLE_RATE, Samples

WINDOW, HOP = 1024, 512  # samples: 64 ms and 32 ms
FRAMES_A_SECOND = SAMPLE_RATE / HOP
_SMOOTHED = 8  # frames over which the energies of a fingerprint are summed
_BITS = 24
_LAG = 8  # frames between the two whose energies are compared
_BAND_HERTZ = np.geomspace(300, 3400, _BITS + 2)
_NOISE_HERTZ = np.linspace(100, 3800, 25)
LOW_HERTZ, HIGH_HERTZ = (100, 3700), (4300, 7600)  # below and above what 8 kHz can hold
MARKS = 64  # frames of a fingerprint by which similar clips are found
LEAST_VARIETY = 8  # different frames that a fingerprint must have to be compared
SILENT_RMS = 1e-5  # digital silence
LEAST_SPEECH = 0.02  # -34 dB below the loud frames: quieter frames are never speech
OVER_FLOOR = 2.0  # a frame of speech is so many times louder than the quietest tenth
NEGLIGIBLE = 1e-12  # power, so that a logarithm of silence is finite


@dataclass(frozen=True, slots=True)
class SoundMeasures:
    """Measures of one clip."""

    seconds: float
    speech_seconds: float  # of frames louder than the noise
    lead_seconds: float  # before the first of these
    trail_seconds: float  # behind the last
    snr_db: float  # estimate; stationary noise alone has 2 to 4 dB
    high_band_db: float  # power over 4.3 kHz in loud frames, relative to that below 3.7 kHz
    content: int  # hash of the samples
    fingerprint: bytes = b""  # uint32 for each frame of 32 ms
    marks: tuple[tuple[int, int], ...] = ()  # (bits, frame) of the frames chosen by their hash


def measure_sound(samples: Samples) -> SoundMeasures:
    """Measure a clip of float32 samples, mono at 16 kHz."""
    spoken = _spoken(samples)
    frame = HOP / SAMPLE_RATE
    found = np.flatnonzero(spoken)
    lead = float(found[0]) * frame if len(found) else 0.0
    trail = float(len(spoken) - 1 - found[-1]) * frame if len(found) else 0.0
    power = _power(samples)
    bits = _fingerprint(power)
    return SoundMeasures(
        seconds=len(samples) / SAMPLE_RATE,
        speech_seconds=len(found) * frame,
        lead_seconds=lead,
        trail_seconds=trail,
        snr_db=_snr(power),
        high_band_db=_high_band(power),
        content=content_hash(np.rint(samples * 32767).astype("<i2").tobytes()),
        fingerprint=bits.tobytes(),
        marks=_marks(bits, spoken),
    )


def content_hash(data: bytes) -> int:
    """64 bits, as SQLite stores them."""
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _spoken(samples: Samples) -> NDArray[np.bool_]:
    """Of each hop, whether it is louder than the noise."""
    whole = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
    levels = np.sqrt(np.square(whole).mean(axis=1)) if len(whole) else np.zeros(0)
    if not len(levels):
        return np.zeros(0, np.bool_)
    loud, floor = np.percentile(levels, 95), np.percentile(levels, 10)
    threshold = max(OVER_FLOOR * floor, LEAST_SPEECH * loud, SILENT_RMS)
    # Without pauses the quietest tenth is speech, too.
    if threshold > loud / OVER_FLOOR:
        threshold = max(LEAST_SPEECH * loud, SILENT_RMS)
    found: NDArray[np.bool_] = levels > threshold
    return found


def _power(samples: Samples) -> NDArray[np.float32]:
    """Power [frames, bins] of the short-time spectrum; empty for a clip under 64 ms."""
    if len(samples) < WINDOW:
        return np.zeros((0, WINDOW // 2 + 1), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    spectrum = np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32))
    power: NDArray[np.float32] = (np.square(np.abs(spectrum)) / WINDOW).astype(np.float32)
    return power


def _bands(power: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power [frames, bands] between the edges in Hz. A band has at least one bin."""
    bins = np.rint(edges * WINDOW / SAMPLE_RATE).astype(int)
    bins = np.maximum.accumulate(bins)
    found: NDArray[np.float64] = np.add.reduceat(power.astype(np.float64), bins[:-1], axis=1)
    return found


def _snr(power: NDArray[np.float32]) -> float:
    """Speech against noise in dB. The noise of a band is its quietest tenth."""
    bands = _bands(power, _NOISE_HERTZ)[:, :-1]
    heard = bands[bands.sum(axis=1) > SILENT_RMS**2 * len(_NOISE_HERTZ)]
    if len(heard) < 4:
        return 99.0
    noise = float(np.percentile(heard, 10, axis=0).sum())
    total = float(heard.mean(axis=0).sum())
    return float(min(99.0, 10 * np.log10(max(total - noise, NEGLIGIBLE) / max(noise, NEGLIGIBLE))))


def _high_band(power: NDArray[np.float32]) -> float:
    if not len(power):
        return 0.0
    hertz = np.arange(power.shape[1]) * SAMPLE_RATE / WINDOW
    low = power[:, (hertz >= LOW_HERTZ[0]) & (hertz <= LOW_HERTZ[1])].sum(axis=1)
    high = power[:, (hertz >= HIGH_HERTZ[0]) & (hertz <= HIGH_HERTZ[1])].sum(axis=1)
    mean = max(float(low.mean()), NEGLIGIBLE)
    return float(10 * np.log10(max(float(np.percentile(high, 95)), NEGLIGIBLE) / mean))


def _fingerprint(power: NDArray[np.float32]) -> NDArray[np.uint32]:
    if len(power) <= _SMOOTHED + _LAG:
        return np.zeros(0, np.uint32)
    sums = np.cumsum(_bands(power, _BAND_HERTZ), axis=0)
    smooth = np.log(np.maximum(sums[_SMOOTHED:] - sums[:-_SMOOTHED], NEGLIGIBLE))
    slope = smooth[:, :-1] - smooth[:, 1:]
    signs = (slope[_LAG:] - slope[:-_LAG])[:, :_BITS] > 0
    weights = np.left_shift(np.uint32(1), np.arange(_BITS, dtype=np.uint32))
    found: NDArray[np.uint32] = (signs * weights).sum(axis=1, dtype=np.uint32)
    return found


def _marks(bits: NDArray[np.uint32], spoken: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """The frames whose bits have the smallest hashes: the same ones in similar clips."""
    middle = np.arange(len(bits)) + (_SMOOTHED + _LAG) // 2
    heard = np.flatnonzero(spoken[np.minimum(middle, len(spoken) - 1)]) if len(bits) else middle
    values, first = np.unique(bits[heard], return_index=True)
    # A hum or a tone is like any other.
    if len(values) < LEAST_VARIETY:
        return ()
    # Fibonacci hashing spreads neighbouring values.
    order = np.argsort(values * np.uint32(2654435769), kind="stable")[:MARKS]
    return tuple((int(values[at]), int(heard[first[at]])) for at in order)


def distance(one: bytes, other: bytes, shift: int) -> tuple[float, int]:
    """The share of differing bits where two fingerprints overlap, and the overlap in frames.

    Frame n of `one` is frame n - `shift` of `other`.
    """
    a, b = np.frombuffer(one, np.uint32), np.frombuffer(other, np.uint32)
    a, b = a[max(0, shift) :], b[max(0, -shift) :]
    count = min(len(a), len(b))
    if count == 0:
        return 1.0, 0
    differing = np.bitwise_count(a[:count] ^ b[:count])
    return float(differing.mean()) / _BITS, count
