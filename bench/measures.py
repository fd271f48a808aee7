"""Compares the measures of `corpus check` with librosa's, on the clips of tar archives.

    python bench/measures.py ARCHIVE ...

Prints for each measure the median, the 95th percentile and the maximum of the differences.
"""

import sys
import tarfile

import librosa
import numpy as np

from lorajob.checking.sound import (
    HIGH_HERTZ,
    HOP,
    LEAST_SPEECH,
    LOW_HERTZ,
    OVER_FLOOR,
    SILENT_RMS,
    WINDOW,
    measure_sound,
)
from lorajob.speech.audio import SAMPLE_RATE, Samples, load_audio

CLIPS = 100  # of each archive


def differences(samples: Samples) -> dict[str, float]:
    """Of one clip, in the units of its measures."""
    ours = measure_sound(samples)
    spectrum = np.abs(
        librosa.stft(samples, n_fft=WINDOW, hop_length=HOP, window=np.hanning(WINDOW), center=False)
    )
    power = np.square(spectrum) / WINDOW
    hertz = librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=WINDOW)
    low = power[(hertz >= LOW_HERTZ[0]) & (hertz <= LOW_HERTZ[1])].sum(axis=0).mean()
    high = np.percentile(power[(hertz >= HIGH_HERTZ[0]) & (hertz <= HIGH_HERTZ[1])].sum(axis=0), 95)
    levels = librosa.feature.rms(y=samples, frame_length=HOP, hop_length=HOP, center=False)[0]
    loud, floor = np.percentile(levels, 95), np.percentile(levels, 10)
    threshold = max(OVER_FLOOR * floor, LEAST_SPEECH * loud, SILENT_RMS)
    if threshold > loud / OVER_FLOOR:
        threshold = max(LEAST_SPEECH * loud, SILENT_RMS)
    _, (first, last) = librosa.effects.trim(
        samples, top_db=0, ref=threshold, frame_length=HOP, hop_length=HOP
    )
    return {
        "power over 4.3 kHz, dB": ours.high_band_db - 10 * np.log10(high / low),
        "seconds of speech": ours.speech_seconds - (levels > threshold).sum() * HOP / SAMPLE_RATE,
        "silence before, s": ours.lead_seconds - first / SAMPLE_RATE,
        "silence after, s": ours.trail_seconds - (len(samples) - last) / SAMPLE_RATE,
    }


def main() -> None:
    found = []
    for path in sys.argv[1:]:
        with tarfile.open(path) as archive:
            sounds = (it for it in archive if it.name.endswith(".mp3"))
            for number, member in enumerate(sounds):
                file = archive.extractfile(member)
                if number == CLIPS or file is None:
                    break
                found.append(differences(load_audio(file.read(), 30)))
    print(f"{len(found)} clips")
    for name in found[0]:
        values = np.percentile([abs(it[name]) for it in found], [50, 95, 100])
        print(f"{name}: {values[0]:.2g}, {values[1]:.2g}, {values[2]:.2g}")


if __name__ == "__main__":
    main()
