"""Makes a model of text (`text_model.py`) of any number of lines, in bounded memory.

The n-grams of a part of the text are counted by sorting their hashes, and added to the counts so
far. If a length has too many n-grams, the rarest are dropped.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorajob.decoding.text_model import (
    BEGIN,
    ORDER,
    Hashes,
    LanguageModel,
    Level,
    as_codes,
    ngrams,
)
from lorajob.errors import UsageError
from lorajob.speech.text import normalise

PART_CHARACTERS = 4_000_000  # of which the n-grams are counted at a time
MOST_NGRAMS = 2_000_000  # of one length; all lengths together are then 0.5 GB
LONGEST_LINE = 2_000  # characters; a longer line is scored as several
USUAL_DISCOUNTS = (0.5, 1.0, 1.5)  # if a text is too small to estimate them


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one length: sorted hashes, and for each the number of times it occurs, the
    hashes without its last and without its first character, and whether it begins a sentence."""

    keys: Hashes
    counts: NDArray[np.int64]
    contexts: Hashes
    suffixes: Hashes
    begins: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> "_Counts":
        return _Counts(
            self.keys[chosen],
            self.counts[chosen],
            self.contexts[chosen],
            self.suffixes[chosen],
            self.begins[chosen],
        )

    def plus(self, other: "_Counts") -> "_Counts":
        """Both together: each n-gram once."""
        both = _Counts(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.contexts, other.contexts]),
            np.concatenate([self.suffixes, other.suffixes]),
            np.concatenate([self.begins, other.begins]),
        )
        if not len(both):
            return both
        both = both.at(np.argsort(both.keys, kind="stable"))
        first = np.flatnonzero(np.r_[True, both.keys[1:] != both.keys[:-1]])
        sums = np.add.reduceat(both.counts, first)
        kept = both.at(first)
        return _Counts(kept.keys, sums, kept.contexts, kept.suffixes, kept.begins)

    def pruned(self, most: int) -> "_Counts":
        """At most `most` n-grams: without those that occur once, or twice, and so on."""
        kept = self
        least = 1
        while len(kept) > most:
            least += 1
            kept = kept.at(kept.counts >= least)
        return kept


_NONE = _Counts(
    np.zeros(0, np.uint64),
    np.zeros(0, np.int64),
    np.zeros(0, np.uint64),
    np.zeros(0, np.uint64),
    np.zeros(0, np.bool_),
)


def build(
    lines: Iterable[str], language: str, most: int = MOST_NGRAMS, part: int = PART_CHARACTERS
) -> LanguageModel:
    """A model of `lines`, which are sentences in the language of a code such as `hi`.

    They are read once, `part` characters at a time. The model has at most `most` n-grams of each
    length. Raises UsageError if the lines have no words.
    """
    counted = [_NONE] * ORDER
    for texts in _parts(lines, language, part):
        for order, found in enumerate(_count(texts)):
            counted[order] = counted[order].plus(found).pruned(most)
    if not len(counted[0]):
        raise UsageError("the text has no words: give a file with a sentence a line")
    return _smoothed(counted, language)


def _parts(lines: Iterable[str], language: str, most: int) -> Iterator[list[str]]:
    """Normalised sentences, `most` characters at a time; lines without words are left out."""
    texts: list[str] = []
    held = 0
    for line in lines:
        for piece in _pieces(line):
            if plain := normalise(piece, language):
                texts.append(plain)
                held += len(plain)
        if held >= most:
            yield texts
            texts, held = [], 0
    if texts:
        yield texts


def _pieces(line: str) -> Iterator[str]:
    """A line in pieces of a bounded length, divided at spaces if it has any."""
    while len(line) > LONGEST_LINE:
        end = line.rfind(" ", 1, LONGEST_LINE) + 1 or LONGEST_LINE
        yield line[:end]
        line = line[end:]
    yield line


def _count(texts: list[str]) -> Iterator[_Counts]:
    """The n-grams of sentences, for each length."""
    codes, starts = as_codes(texts)
    shorter = np.zeros(len(codes), np.uint64)
    for order, (hashes, inside) in enumerate(ngrams(codes, starts, ORDER), start=1):
        places = np.flatnonzero(inside)
        yield _NONE.plus(
            _Counts(
                hashes[places],
                np.ones(len(places), np.int64),
                np.roll(shorter, 1)[places] if order > 1 else shorter[places],
                shorter[places],
                codes[places - order + 1] == BEGIN,
            )
        )
        shorter = hashes


def _smoothed(counted: list[_Counts], language: str) -> LanguageModel:
    """Kneser-Ney: an n-gram that is not of the greatest length counts as often as there are
    characters before it."""
    levels: list[Level] = []
    empty = 1.0
    for order, found in enumerate(counted):
        longer = counted[order + 1] if order + 1 < len(counted) else None
        if levels:
            # After pruning, a context may be missing.
            found = found.at(levels[-1].find(found.contexts)[1])
        level, contexts, backoff = _level(found, longer, order == 0)
        if levels:
            levels[-1].backoff[levels[-1].find(contexts)[0]] = backoff
        else:
            empty = float(backoff[0])
        levels.append(level)
    return LanguageModel(language, tuple(levels), empty)


def _level(
    found: _Counts, longer: _Counts | None, first: bool
) -> tuple[Level, Hashes, NDArray[np.float64]]:
    """The n-grams of a length, their contexts, and the backoff of each context."""
    counts = found.counts.astype(np.float64)
    if longer is not None:
        before = _before(found, longer)
        counts = np.where(found.begins, counts, np.maximum(before, 1))
    if first:
        # The begin of a sentence is never predicted.
        counts[found.begins] = 0.0
    discounts = _discounts(counts)
    taken = np.where(counts > 0, discounts[np.minimum(counts, 3).astype(np.intp) - 1], 0.0)
    contexts, of = np.unique(found.contexts, return_inverse=True)
    total = np.bincount(of, counts, len(contexts))
    spared = np.bincount(of, taken, len(contexts))
    total = np.maximum(total, 1e-9)
    probability = ((counts - taken) / total[of]).astype(np.float32)
    return Level(found.keys, probability, np.ones(len(found), np.float32)), contexts, spared / total


def _before(found: _Counts, longer: _Counts) -> NDArray[np.float64]:
    """How many different characters stand before each n-gram."""
    places = np.searchsorted(found.keys, longer.suffixes)
    places = np.minimum(places, max(0, len(found) - 1))
    same = found.keys[places] == longer.suffixes if len(found) else np.zeros(0, np.bool_)
    return np.bincount(places[same], minlength=len(found)).astype(np.float64)


def _discounts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is taken from counts of 1, 2, and 3 or more (Chen and Goodman 1998, equation 26)."""
    one, two, three, four = (float((counts == it).sum()) for it in (1, 2, 3, 4))
    if not (one and two and three):
        return np.array(USUAL_DISCOUNTS)
    share = one / (one + 2 * two)
    found = 1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three
    return np.clip(found, 0.1, (0.95, 1.95, 2.95))
