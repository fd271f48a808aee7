"""A test set for corpora that come without one: decided by speaker, the same every time."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from lorajob.corpora.clip import Entry
from lorajob.speech.text import normalise

By = Literal["speaker", "sentence"]


def choose_test(entries: Iterable[Entry], share: float, seed: int) -> tuple[set[str], By]:
    """Ids of about `share` of the clips for testing, and what keeps them apart from the rest.

    By speaker where two or more are known: no voice is in both sets (clips of nobody known stay
    in training). Else by sentence: no text is in both. Groups are taken in the order of a seeded
    hash while they fit, so whole groups may make the share smaller; where none fits the smallest
    is taken. Empty where there is only one group, or `share` is 0.
    """
    entries = list(entries)
    by: By = "speaker" if len({entry.speaker for entry in entries} - {""}) > 1 else "sentence"
    groups: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        groups[entry.speaker if by == "speaker" else normalise(entry.text)].append(entry.id)
    groups.pop("", None)  # nobody known, or nothing said
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
    """At most `most` of `ids`, spread over all of them: those first by a seeded hash."""
    every = set(ids)
    if most is None or len(every) <= most:
        return every
    return set(sorted(every, key=lambda name: seeded(name, seed))[:most])


def seeded(key: str, seed: int) -> bytes:
    """A hash that stays the same from run to run, unlike Python's own."""
    return hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
