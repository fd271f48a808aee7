"""Sound without speech: the quiet parts of a clip, room tone like them, and noises.

All is drawn from a numpy generator, so the same seed gives the same samples.
"""

from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lorajob.speech.audio import SAMPLE_RATE, Samples

NoiseKind = Literal["silence", "hum50", "hum60", "white", "pink", "tones"]
NOISE_KINDS: tuple[NoiseKind, ...] = ("silence", "hum50", "hum60", "white", "pink", "tones")

FRAME_SAMPLES = 320  # 20 ms, over which a level is taken
# Levels are RMS of a frame, relative to the loud frames of the clip (their 95th percentile).
QUIET = 0.1  # -20 dB: louder parts are not taken for room tone
LEAST_SPEECH = 0.02  # -34 dB: quieter frames are never taken for speech
OVER_FLOOR = 2.0  # a frame of speech is so many times louder than the quietest tenth
EDGE_SECONDS = 0.1  # kept around speech, for soft beginnings and ends
SILENT = 1e-5  # frames below this RMS are digital silence
LEAST_FRAMES = 5  # that room tone is made from


def speech_span(samples: Samples) -> tuple[float, float]:
    """Where the speech of a clip begins and ends, in seconds.

    All speech lies within; the quiet edges of the clip lie outside. Without clear quiet parts it is
    the whole clip.
    """
    whole = 0.0, len(samples) / SAMPLE_RATE
    levels = _levels(samples)
    if not len(levels):
        return whole
    loud, floor = np.percentile(levels, 95), np.percentile(levels, 10)
    threshold = max(OVER_FLOOR * floor, LEAST_SPEECH * loud)
    spoken = np.flatnonzero(levels > threshold)
    if threshold > QUIET * loud or not len(spoken):
        return whole
    frame = FRAME_SAMPLES / SAMPLE_RATE
    end = whole[1]
    # The rest of a frame at the end is not measured, so it may be speech.
    if spoken[-1] < len(levels) - 1:
        end = min(end, float(spoken[-1] + 1) * frame + EDGE_SECONDS)
    return max(0.0, float(spoken[0]) * frame - EDGE_SECONDS), end


def room_tone(samples: Samples, count: int, rng: Generator) -> Samples:
    """Noise of `count` samples with the spectrum and level of a clip's quiet parts.

    The quietest tenth of its frames is taken, without digital silence. In a clip without quiet
    parts the level is lowered to -20 dB below its loud parts.
    """
    levels = _levels(samples)
    heard = np.flatnonzero(levels > SILENT)
    if count == 0 or not len(heard):
        return np.zeros(count, np.float32)
    quiet = heard[np.argsort(levels[heard], kind="stable")]
    quiet = quiet[: max(LEAST_FRAMES, len(quiet) // 10)]
    frames = samples[: len(levels) * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)[quiet]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(FRAME_SAMPLES)))).mean(axis=0)
    level = min(
        float(np.sqrt(np.mean(np.square(levels[quiet])))), QUIET * float(np.percentile(levels, 95))
    )
    return _shaped(np.sqrt(power), count, level, rng)


def noise(kind: NoiseKind, count: int, rng: Generator) -> Samples:
    """`count` samples of sound without speech, at a random level of -60 to -20 dB of full scale.

    - `hum50`, `hum60`: mains hum with four harmonics and a little noise.
    - `tones`: one to three constant tones of 100 to 4000 Hz.
    """
    level = 10 ** rng.uniform(-3.0, -1.0)
    if kind == "silence":
        return np.zeros(count, np.float32)
    if kind == "white":
        return _shaped(np.ones(2), count, level, rng)
    if kind == "pink":
        frequencies = np.linspace(0, 1, 1024)
        return _shaped(1 / np.sqrt(np.maximum(frequencies, 1e-3)), count, level, rng)
    if kind == "tones":
        pitches = 10 ** rng.uniform(2.0, 3.6, int(rng.integers(1, 4)))
        loudness = rng.uniform(0.3, 1.0, len(pitches))
    else:
        pitches = np.arange(1, 6).astype(np.float64) * (50 if kind == "hum50" else 60)
        loudness = rng.uniform(0.2, 1.0, len(pitches)) / np.arange(1, 6)
    time = np.arange(count) / SAMPLE_RATE
    waves = np.zeros(count)
    for pitch, strength in zip(pitches, loudness, strict=True):
        waves += strength * np.sin(2 * np.pi * (pitch * time + rng.uniform()))
    waves += 0.01 * rng.standard_normal(count)
    return _at_level(waves, level)


def _levels(samples: Samples) -> NDArray[np.float64]:
    """RMS of each whole frame."""
    whole = len(samples) // FRAME_SAMPLES
    frames = samples[: whole * FRAME_SAMPLES].astype(np.float64).reshape(whole, FRAME_SAMPLES)
    result: NDArray[np.float64] = np.sqrt(np.mean(np.square(frames), axis=1))
    return result


def _shaped(amplitudes: NDArray[np.float64], count: int, level: float, rng: Generator) -> Samples:
    """White noise whose spectrum is shaped by `amplitudes`, evenly spaced up to 8 kHz."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    places = np.linspace(0, len(amplitudes) - 1, len(spectrum))
    spectrum *= np.interp(places, np.arange(len(amplitudes)), amplitudes)
    return _at_level(np.fft.irfft(spectrum, count), level)


def _at_level(samples: NDArray[np.float64], level: float) -> Samples:
    """Scale samples to an RMS of `level`, within full scale."""
    present = float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0
    scaled = samples * (level / present) if present > 0 else samples
    result: Samples = np.clip(scaled, -1.0, 1.0).astype(np.float32)
    return result
