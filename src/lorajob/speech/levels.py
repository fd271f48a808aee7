"""What is wrong with the level of a clip: silence and clipping."""

import numpy as np

from lorajob.speech.audio import SAMPLE_RATE, Samples

SILENT = "silent"
MOSTLY_SILENT = "over 95 % silent"
CLIPPED = "clipped"

SILENT_PEAK = 1e-4  # -80 dB of full scale: dither of 16-bit samples stays below
QUIET_RMS = 1e-3  # -60 dB of full scale: a frame without any sound, not even a quiet room
SILENT_SHARE = 0.95
FRAME = SAMPLE_RATE // 50  # 20 ms
CLIPPED_LEVEL = 0.995
# At 16 kHz, a full-scale sine of up to 500 Hz stays as long above the level as this.
CLIPPED_RUN = 4  # samples
CLIPPED_SHARE = 0.001


def has_no_sound(samples: Samples) -> bool:
    """Whether no sample stands out of digital silence."""
    return float(np.abs(samples).max(initial=0.0)) < SILENT_PEAK


def remarks(samples: Samples) -> tuple[str, ...]:
    """What is remarkable about a clip that is kept, mono at 16 kHz."""
    found = []
    whole = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    quiet = np.square(whole).mean(axis=1) < QUIET_RMS**2
    if len(whole) and quiet.mean() > SILENT_SHARE:
        found.append(MOSTLY_SILENT)
    if _clipped_share(samples) > CLIPPED_SHARE:
        found.append(CLIPPED)
    return tuple(found)


def _clipped_share(samples: Samples) -> float:
    """The share of samples in runs at full scale."""
    high = np.abs(samples) >= CLIPPED_LEVEL
    if not high.any():
        return 0.0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]]).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    return float(lengths[lengths >= CLIPPED_RUN].sum() / len(samples))
