"""Hashed n-grams of keys, and for each n-gram the list of the keys that have it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorajob.book.keys import Key

GRAMS = {"fine": (2, 3), "coarse": (3,), "letters": (3,)}  # lengths of the n-grams
BUCKETS = 1 << 17
PART_KEYS = 2_000  # of which the n-grams are hashed at a time
PART_ROWS = 500_000  # of lists, which are counted at a time
MOST_ROWS = 40_000  # of the lists of a word
MOST_SHARED = 84  # n-grams of a word that are counted, so that three words fit a byte
_PRIME = 1_000_003


@dataclass(frozen=True, slots=True)
class Lists:
    """For each n-gram the rows of the keys that have it, in ascending order.

    `rows` holds the lists one after the other, and `starts` where each begins. `sizes` is the
    number of n-grams of each key.
    """

    rows: NDArray[np.int32]
    starts: NDArray[np.int64]
    sizes: NDArray[np.float32]

    def rare(self, grams: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rarest of `grams`, with at most MOST_ROWS rows in all, but at least one.

        Those that many keys have tell little, and are most of the time of a look-up.
        """
        lengths = self.starts[grams + 1] - self.starts[grams]
        order = np.argsort(lengths, kind="stable")
        fits = np.cumsum(lengths[order]) <= MOST_ROWS
        return grams[order[: max(1, int(fits.sum()))]]

    def shared(self, grams: NDArray[np.int64]) -> NDArray[np.uint8]:
        """How many of `grams` each key has, at most MOST_SHARED."""
        counts = np.zeros(len(self.sizes), np.int64)
        waiting: list[NDArray[np.int32]] = []
        held = 0
        for place, gram in enumerate(grams.tolist(), start=1):
            rows = self.rows[self.starts[gram] : self.starts[gram + 1]]
            waiting.append(rows)
            held += len(rows)
            if held >= PART_ROWS or place == len(grams):
                counts += np.bincount(np.concatenate(waiting), minlength=len(counts))
                waiting, held = [], 0
        return np.minimum(counts, MOST_SHARED).astype(np.uint8)


def inverted(keys: Sequence[Key]) -> Lists:
    """The lists of the n-grams of keys."""
    sizes = np.zeros(len(keys), np.float32)
    lengths = np.zeros(BUCKETS, np.int64)
    parts: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
    for first in range(0, len(keys), PART_KEYS):
        some = keys[first : first + PART_KEYS]
        grams, rows = _grams(some)
        # Each pair once, ordered by n-gram and then by row.
        pairs = np.sort(grams * len(some) + rows)
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        grams, rows = np.divmod(pairs, len(some))
        sizes[first : first + len(some)] = np.bincount(rows, minlength=len(some))
        lengths += np.bincount(grams, minlength=BUCKETS)
        parts.append((grams.astype(np.int32), (rows + first).astype(np.int32)))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    placed = np.zeros(starts[-1], np.int32)
    ends = starts[:-1].copy()  # of the lists as far as they are filled
    for grams_of_part, rows_of_part in parts:
        added = np.bincount(grams_of_part, minlength=BUCKETS)
        # The places behind the end of its list, for a part that is ordered by n-gram.
        before = ends - (np.cumsum(added) - added)
        placed[before[grams_of_part] + np.arange(len(grams_of_part))] = rows_of_part
        ends += added
    return Lists(placed, starts, sizes)


def grams_of_each(keys: Sequence[Key]) -> list[NDArray[np.int64]]:
    """The hashed n-grams of each key, each once."""
    grams, rows = _grams(keys)
    rows, grams = np.divmod(np.unique(rows * BUCKETS + grams), BUCKETS)
    return np.split(grams, np.searchsorted(rows, np.arange(1, len(keys)))) if keys else []


def _grams(keys: Sequence[Key]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The hashed n-grams of keys, and the row of the key of each."""
    found, rows = [], []
    for salt, (part, sizes) in enumerate(GRAMS.items()):
        texts = [f"\x02{getattr(key, part)}\x03" for key in keys]
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.int64)
        owner = np.repeat(np.arange(len(texts)), [len(it) for it in texts])
        for size in sizes:
            if len(codes) < size:
                continue
            hashed = np.full(len(codes) - size + 1, salt * 7 + size, np.int64)
            for at in range(size):
                hashed = (hashed * _PRIME + codes[at : len(codes) - size + 1 + at]) % (1 << 40)
            inside = owner[: len(hashed)] == owner[size - 1 :]
            found.append((hashed % BUCKETS)[inside])
            rows.append(owner[: len(hashed)][inside])
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(found), np.concatenate(rows)
