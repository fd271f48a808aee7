"""Finds pauses in speech, by librosa's `effects.split`.

librosa takes seconds to import and 300 MB, so it is loaded only when a pause is looked for.
"""

import numpy as np
from numpy.typing import NDArray

from lorajob.speech.audio import Samples

CONTEXT_SECONDS = 1.0  # beside a cut: its loudest frame is the level of the speech
# A pause is so far below the loudest frame, in dB. The lower one is tried first.
QUIET_DB = (35.0, 25.0)
WINDOW_SECONDS, HOP_SECONDS = 0.032, 0.008
LEAST_SECONDS = 0.03  # of a pause; closures of plosives are shorter or as long


def nearest_pause(samples: Samples, rate: int, at: int, slack: int) -> int | None:
    """The middle of the longest pause within `slack` samples of `at`; None without a pause.

    `samples` are mono at `rate` Hz, and only those within CONTEXT_SECONDS of `at` are heard. So two
    clips that meet at `at` get the same answer.
    """
    context = round(CONTEXT_SECONDS * rate)
    first = max(0, at - context)
    heard = samples[first : at + context]
    low, high = max(0, at - slack) - first, min(len(samples), at + slack) - first
    for quiet_db in QUIET_DB:
        found = [
            (min(end, high) - max(start, low), (max(start, low) + min(end, high)) // 2)
            for start, end in _pauses(heard, rate, quiet_db)
        ]
        long_enough = [it for it in found if it[0] >= LEAST_SECONDS * rate]
        if long_enough:
            return first + max(long_enough, key=lambda it: (it[0], -abs(first + it[1] - at)))[1]
    return None


def _pauses(samples: Samples, rate: int, quiet_db: float) -> list[tuple[int, int]]:
    """The parts of samples between the parts with speech."""
    import librosa

    window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    if len(samples) < window:
        return []
    spoken: NDArray[np.int64] = librosa.effects.split(
        samples, top_db=quiet_db, frame_length=window, hop_length=hop
    )
    edges = [0, *(int(it) for it in spoken.reshape(-1)), len(samples)]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end > start]
