"""What is compared of terms and of words that were heard: letters and phones."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from lorajob.book.phones import LONGEST, coarse, fine, spelled_out
from lorajob.book.terms import Term
from lorajob.speech.text import normalise


@dataclass(frozen=True, slots=True)
class Key:
    """Letters without spaces, and phones."""

    letters: str
    fine: str
    coarse: str


def sound_key(text: str, language: str) -> Key:
    """The key of words."""
    words = normalise(text, language)[: 2 * LONGEST].split()
    phones = "".join(map(fine, words))[:LONGEST]
    return Key("".join(words)[:LONGEST], phones, coarse(phones))


def keys_of_term(term: Term, language: str) -> Iterator[Key]:
    """The keys of a term, one for each way to sound."""
    letters = normalise(term.text, language).replace(" ", "")[:LONGEST]
    for heard in term.sounds or (term.text,):
        key = sound_key(heard, language)
        if key.fine or letters:
            yield Key(letters, key.fine, key.coarse)
    if not term.sounds and (names := spelled_out(term.text)):
        yield Key(letters, names, coarse(names))


@dataclass(frozen=True, slots=True)
class Texts:
    """Many texts as one, which takes less memory. `ends` is where each ends."""

    joined: str
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        parts = list(texts)
        return cls("".join(parts), np.fromiter(accumulate(map(len, parts)), np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        return self.joined[int(self.ends[row - 1]) if row else 0 : int(self.ends[row])]

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self.ends.tolist():
            yield self.joined[start:end]
            start = end
