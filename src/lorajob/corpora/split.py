"""Chooses a test set for a corpus without one, by speaker, the same every time."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from lorajob.corpora.clip import Entry
from lorajob.speech.text import normalise

By = Literal["speaker", "sentence"]


def choose_test(
    entries: Iterable[Entry], share: float, seed: int, language: str
) -> tuple[set[str], By]:
    """Choose about `share` of the clips for testing. Returns their ids and how they were grouped.

    If two or more speakers are known, clips are grouped by speaker: no voice is in both sets, and
    clips of unknown speakers stay in training. Else they are grouped by sentence: no text is in
    both sets. Groups are taken in the order of a seeded hash while they fit, so the result may be
    smaller than `share`. If no group fits, the smallest is taken. The result is empty if there is
    only one group, or if `share` is 0.
    """
    entries = list(entries)
    by: By = "speaker" if len({entry.speaker for entry in entries} - {""}) > 1 else "sentence"
    groups: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        key = entry.speaker if by == "speaker" else normalise(entry.text, language)
        groups[key].append(entry.id)
    groups.pop("", None)  # unknown speakers, or empty texts
    if share == 0 or len(groups) < 2:
        return set(), by
    room = max(1, round(share * len(entries)))
    test: set[str] = set()
    for key in sorted(groups, key=lambda key: seeded(key, seed)):
        if len(test) + len(groups[key]) <= room:
            test.update(groups[key])
    smallest = min(groups.values(), key=len)
    return test or set(smallest), by


def sample(ids: Iterable[str], most: int | None, seed: int) -> set[str]:
    """At most `most` of `ids`, spread over all of them: the first in the order of a seeded hash."""
    every = set(ids)
    if most is None or len(every) <= most:
        return every
    return set(sorted(every, key=lambda name: seeded(name, seed))[:most])


def seeded(key: str, seed: int) -> bytes:
    """A hash that is the same in every process, unlike Python's own."""
    return hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
