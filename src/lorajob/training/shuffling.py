"""Shuffles the clips of a corpus that is too large to be read at random.

Blocks of consecutive clips are shuffled and dealt to buffers of some hours. The clips of a buffer
are shuffled when it is packed (packing.py). reading.py reads the blocks ahead.
"""

import math
import random
from collections.abc import Sequence
from itertools import groupby

BLOCK_CLIPS = 256  # consecutive clips that are read together, some 17 MB of FLAC


def shuffle_buffers(
    clips: Sequence[int], seconds: Sequence[float], hours: float, rng: random.Random
) -> list[list[int]]:
    """Divide `clips`, in ascending order, into buffers of about `hours` of audio.

    `seconds` are the lengths of all clips of the corpus. Each buffer has blocks from all over the
    corpus. With up to `hours` there is one buffer, and nothing is drawn from `rng`.
    """
    blocks = [list(block) for _, block in groupby(clips, lambda clip: clip // BLOCK_CLIPS)]
    buffers = sum(seconds[clip] for clip in clips) / (3600 * hours)
    count = math.ceil(min(buffers, len(blocks)))
    if count <= 1:
        return [list(clips)]
    rng.shuffle(blocks)
    return [[clip for block in blocks[number::count] for clip in block] for number in range(count)]
