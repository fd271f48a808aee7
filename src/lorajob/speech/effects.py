"""Alters the sound of a clip as other rooms, microphones and speakers would.

All functions map float32 samples [-1, 1] at 16 kHz to new ones. Only `change_speed` changes their
number. The audiomentations package has the same effects, but it draws from global random
generators, and a training has to draw the same after a restart.
"""

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.random import Generator

from lorajob.errors import FilesError
from lorajob.speech.audio import SAMPLE_RATE, Samples

SOUND_FILES = (".wav", ".flac", ".ogg", ".mp3")
TELEPHONE_HERTZ = (300, 3400)  # ITU-T G.712
EDGE_HERTZ = 100  # width of the edges of that band
MU = 255  # of the companding of ITU-T G.711
# Generated rooms: time in which the sound falls by 60 dB, level of the reverberation against the
# direct sound, and its delay. Offices and living rooms have 0.2 to 0.8 s.
REVERBERATION_SECONDS = (0.15, 0.8)
REVERBERATION_DB = (-20.0, 0.0)
FIRST_ECHO_SECONDS = (0.002, 0.015)
LONGEST_RESPONSE_SECONDS = 1.0
SILENT = 1e-5  # RMS of -100 dB of full scale


def change_speed(samples: Samples, factor: float) -> Samples:
    """Play a clip `factor` times as fast. Its pitch changes, too, as with a tape.

    It then has round(samples / factor) samples (Ko et al., "Audio augmentation for speech
    recognition", Interspeech 2015).
    """
    if factor == 1.0:
        return samples
    count = round(len(samples) / factor)
    played = soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE)[:count]
    return np.pad(played, (0, count - len(played))).astype(np.float32)


def change_level(samples: Samples, decibels: float) -> Samples:
    """Make a clip louder or softer, at most to full scale."""
    return _within(samples * np.float32(10 ** (decibels / 20)))


def add_noise(samples: Samples, noise: Samples, ratio_db: float) -> Samples:
    """Add noise, repeated or cut to the clip's length, at a ratio of the clip's RMS to its own."""
    own, other = _rms(samples), _rms(noise)
    if own < SILENT or other < SILENT:
        return samples
    level = own / other * 10 ** (-ratio_db / 20)
    return _within(samples + np.resize(noise, len(samples)) * np.float32(level))


def reverberate(samples: Samples, response: Samples) -> Samples:
    """Put a clip into a room with this impulse response. Its length and RMS stay.

    The direct sound is the response's peak. What comes before the peak is left out, so speech stays
    where it was.
    """
    heard = response[int(np.abs(response).argmax()) :] if len(response) else response
    heard = heard[: round(LONGEST_RESPONSE_SECONDS * SAMPLE_RATE)]
    own = _rms(samples)
    if not len(heard) or own < SILENT:
        return samples
    size = 1 << (len(samples) + len(heard) - 2).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(heard, size)
    wet = np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)
    level = _rms(wet)
    return _within(wet * np.float32(own / level)) if level > SILENT else samples


def room_response(rng: Generator) -> Samples:
    """The impulse response of a random room: the direct sound and noise that dies away."""
    seconds = rng.uniform(*REVERBERATION_SECONDS)
    first = round(rng.uniform(*FIRST_ECHO_SECONDS) * SAMPLE_RATE)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail *= 10 ** (rng.uniform(*REVERBERATION_DB) / 20) / np.sqrt(np.sum(np.square(tail)))
    return np.concatenate([[1.0], np.zeros(first), tail]).astype(np.float32)


def telephone(samples: Samples) -> Samples:
    """A clip as over a telephone: 300 to 3400 Hz, 8 bits of mu-law."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    low, high = TELEPHONE_HERTZ
    edges = np.minimum(hertz - (low - EDGE_HERTZ), (high + EDGE_HERTZ) - hertz) / EDGE_HERTZ
    band = np.fft.irfft(spectrum * np.clip(edges, 0.0, 1.0), len(samples))
    peak = max(1.0, float(np.abs(band).max(initial=0.0)))
    small = np.sign(band) * np.log1p(MU * np.abs(band / peak)) / np.log1p(MU)
    coarse = np.rint(small * 127) / 127
    heard = np.sign(coarse) * np.expm1(np.abs(coarse) * np.log1p(MU)) / MU * peak
    return _within(heard.astype(np.float32))


def sound_files(folder: Path, setting: str) -> list[Path]:
    """The sound files below a folder, sorted. Raises FilesError without any, since a share that is
    not mounted leaves an empty folder.
    """
    if not folder.is_dir():
        raise FilesError(f"{setting}: {folder} is not a folder on this machine; is it mounted?")
    # Hidden files with such names hold what macOS knows about a file.
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SOUND_FILES and not path.name.startswith(".")
    ]
    if not found:
        kinds = ", ".join(SOUND_FILES)
        raise FilesError(f"{setting}: {folder} has no sound file ({kinds}); is it mounted here?")
    return found


def read_part(path: Path, seconds: float, place: float) -> Samples:
    """Up to `seconds` of a sound file, mono. `place`, 0 to 1, says where they begin.

    Raises FilesError for a file that cannot be read.
    """
    try:
        with soundfile.SoundFile(path) as file:
            wanted = min(file.frames, round(seconds * file.samplerate))
            file.seek(round(place * (file.frames - wanted)))
            read = file.read(wanted, dtype="float32", always_2d=True)
            rate = file.samplerate
    except (OSError, RuntimeError) as error:
        raise FilesError(f"{path}: cannot be read as sound: {error}") from None
    if not np.isfinite(read).all():
        raise FilesError(f"{path}: cannot be read as sound: its samples are not numbers")
    mono: Samples = read.mean(axis=1)
    if rate != SAMPLE_RATE and len(mono):
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    return mono


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0


def _within(samples: Samples) -> Samples:
    """Samples that are scaled down if they exceed full scale."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples / np.float32(peak) if peak > 1.0 else samples
