"""Chooses a test set for a corpus without one, by speaker, the same every time."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from lorajob.corpora.entries import Entry
from lorajob.corpora.ids import Ids, hashed
from lorajob.speech.text import normalise

By = Literal["speaker", "sentence"]


def choose_test(entries: Sequence[Entry], share: float, seed: int, language: str) -> tuple[Ids, By]:
    """Choose about `share` of the clips for testing. Returns their ids and how they were grouped.

    If two or more speakers are known, clips are grouped by speaker: no voice is in both sets, and
    clips of unknown speakers stay in training. Else they are grouped by sentence: no text is in
    both sets. Groups are taken in the order of a seeded hash while they fit, so the result may be
    smaller than `share`. If no group fits, the smallest is taken. The result is empty if there is
    only one group, or if `share` is 0.
    """
    by: By = "speaker" if len({entry.speaker for entry in entries} - {""}) > 1 else "sentence"
    ids, groups = array("Q"), array("Q")
    count = 0
    for entry in entries:
        count += 1
        key = entry.speaker if by == "speaker" else normalise(entry.text, language)
        # Unknown speakers and empty texts are no group.
        if key:
            ids.append(hashed(entry.id))
            groups.append(seeded(key, seed))
    members = np.frombuffer(groups, np.uint64)
    keys, first, sizes = np.unique(members, return_index=True, return_counts=True)
    if share == 0 or len(keys) < 2:
        return Ids(), by
    room = max(1, round(share * count))
    taken, size = [], 0
    for key, more in zip(keys, sizes, strict=True):
        if size + more <= room:
            taken.append(key)
            size += more
    if not taken:
        taken = [keys[np.lexsort((first, sizes))[0]]]
    return Ids.of_hashes(np.frombuffer(ids, np.uint64)[np.isin(members, taken)]), by


def sample(ids: Iterable[str], most: int | None, seed: int) -> Ids:
    """At most `most` of `ids`, spread over all of them: the first in the order of a seeded hash."""
    hashes, order = array("Q"), array("Q")
    for name in ids:
        hashes.append(hashed(name))
        order.append(0 if most is None else seeded(name, seed))
    every = np.frombuffer(hashes, np.uint64)
    if most is None or len(every) <= most:
        return Ids.of_hashes(every)
    return Ids.of_hashes(every[np.argsort(np.frombuffer(order, np.uint64), kind="stable")[:most]])


def seeded(key: str, seed: int) -> int:
    """A hash of 64 bits that is the same in every process, unlike Python's own."""
    data = f"{seed}\0{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
