"""How many windows a device decodes fastest at a time: measured on noise when a model is loaded.

A batch makes the decoder's steps cheaper: each step reads all its weights, for any number of rows.
It makes the encoder no cheaper on a CPU, but it does on a GPU. So both are timed for each size, and
weighed with the number of steps that a usual clip needs.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lorajob.decoding.fast import FastDecoder
from lorajob.speech.audio import SAMPLE_RATE

IN_TORCH = 8  # windows at a time, where PyTorch decodes
MOST_WINDOWS = 64
MOST_ON_CPU = 16  # more waste by padding what they save
CLIP_SECONDS = 4.0  # of the noise
STEPS = 8  # of the decoder that are timed
REPEATS = 2  # the fastest counts, because other programs may run beside
MEASURE_SECONDS = 3.0  # in all, about, at most
WORTH_IT = 0.95  # a larger batch must take at most this share of the time for each window
# The limits of tokens are about so many times what a usual clip needs.
LIMIT_TO_USUAL = 3.0


def best_batch(decoder: FastDecoder) -> int:
    """The number of windows that this device decodes fastest at a time.

    Sizes double until two in a row do not pay, or until the time is over.
    """
    if decoder.engine is None:
        return IN_TORCH
    noise = np.random.default_rng(0).normal(0, 0.05, int(CLIP_SECONDS * SAMPLE_RATE))
    mel = decoder.mel([noise.astype(np.float32)])
    steps = decoder.config.limits.of(CLIP_SECONDS) / LIMIT_TO_USUAL
    clock = _clock(decoder)
    best, size, cheapest, began = 1, 1, float("inf"), clock()
    _seconds_a_window(decoder, mel, 1, steps)  # the first run loads libraries
    most = MOST_ON_CPU if decoder.engine.device == "cpu" else MOST_WINDOWS
    while size <= most and size <= 4 * best:
        try:
            seconds = _seconds_a_window(decoder, np.repeat(mel, size, axis=0), size, steps)
        except RuntimeError:  # out of memory
            break
        if seconds <= WORTH_IT * cheapest:
            best, cheapest = size, seconds
        size *= 2
        if clock() - began > MEASURE_SECONDS:
            break
    return best


def _clock(decoder: FastDecoder) -> Callable[[], float]:
    """The clock that counts. On a CPU it is its own time: other programs may use the cores."""
    return time.process_time if decoder.engine.device == "cpu" else time.monotonic


def _seconds_a_window(
    decoder: FastDecoder, mel: NDArray[np.float32], windows: int, steps: float
) -> float:
    """Seconds a window for the encoder and `steps` steps of the decoder."""
    engine, prompt, clock = decoder.engine, decoder.prompt, _clock(decoder)
    began = clock()
    encoded = decoder.encode(mel)
    encoding = clock() - began
    stepping = float("inf")
    for _ in range(REPEATS):
        began = clock()
        engine.generate(
            encoded,
            [prompt] * windows,
            beam_size=decoder.config.beam_size,
            max_length=2 * max(STEPS, len(prompt)),
            # No row may end before the others.
            suppress_tokens=[decoder.labels.end],
        )
        stepping = min(stepping, clock() - began)
    return (encoding + stepping * steps / max(STEPS, len(prompt))) / windows
