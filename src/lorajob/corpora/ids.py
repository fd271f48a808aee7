"""Sets of the ids of clips. Only hashes are kept, so a million ids take a few megabytes."""

import hashlib
from array import array
from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

FIRST_SLOTS = 1024


def hashed(name: str) -> int:
    """A hash of 64 bits. Of ten million names, two share one with a probability of 3e-6."""
    data = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


class Ids:
    """A set of ids that cannot be listed, 8 bytes each."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._hashes = np.unique(np.frombuffer(array("Q", map(hashed, ids)), np.uint64))

    @classmethod
    def of_hashes(cls, hashes: NDArray[np.uint64]) -> "Ids":
        """The ids with these hashes [count]."""
        found = cls()
        found._hashes = np.unique(hashes)
        return found

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        wanted = np.uint64(hashed(name))
        place = int(np.searchsorted(self._hashes, wanted))
        return place < len(self._hashes) and bool(self._hashes[place] == wanted)

    def __or__(self, other: "Ids") -> "Ids":
        return Ids.of_hashes(np.concatenate([self._hashes, other._hashes]))

    def __sub__(self, other: "Ids") -> "Ids":
        return Ids.of_hashes(np.setdiff1d(self._hashes, other._hashes, assume_unique=True))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Collection) and not isinstance(other, Ids):
            other = Ids(other)
        return isinstance(other, Ids) and np.array_equal(self._hashes, other._hashes)

    # Equal collections of other types have other hashes.
    __hash__ = None  # type: ignore[assignment]


class Seen:
    """Counts how often each name was seen, in 16 to 32 bytes a name."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * FIRST_SLOTS))  # 0 is an empty slot
        self._used = 0
        self._again: dict[int, int] = {}  # hash -> times, of names seen more than once

    def count(self, name: str) -> int:
        """How often the name was seen, this time included."""
        key = hashed(name) or 1
        slot = self._slot(key)
        if self._slots[slot] == key:
            self._again[key] = self._again.get(key, 1) + 1
            return self._again[key]
        self._slots[slot] = key
        self._used += 1
        if 2 * self._used > len(self._slots):
            self._grow()
        return 1

    def __len__(self) -> int:
        return self._used

    def _slot(self, key: int) -> int:
        """The slot of a key, or the empty slot where it belongs."""
        mask = len(self._slots) - 1
        slot = key & mask
        while self._slots[slot] not in (0, key):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        old, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
        for key in filter(None, old):
            self._slots[self._slot(key)] = key


def unique(seen: Seen, name: str) -> str:
    """`name`, or `name#2` if it was used before."""
    times = seen.count(name)
    return name if times == 1 else f"{name}#{times}"
