"""Finds the terms that sound or look like words of a transcript, by shared n-grams.

Each term is written in phones, once for each way to sound. Its n-grams, and those of its letters,
are hashed into lists of terms (an inverted index in numpy). A run of words of the transcript takes
the terms that share most of its n-grams, and compares these by edit distance.

An index is built of a part of the terms at a time, and a look-up counts a part of the lists at a
time. So neither needs much more memory than the index, nor keeps Python's lock for long.
"""

import math
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from lorajob.book.grams import MOST_SHARED, Lists, grams_of_each
from lorajob.book.keys import Key, Texts, sound_key
from lorajob.book.tables import Tables, make_tables
from lorajob.book.terms import Glossary, Term
from lorajob.speech.text import is_unspaced

MOST_WORDS = 3  # of a transcript that are compared with one term
UNSPACED_SPANS = (2, 3, 4, 6, 8)  # characters, in scripts without spaces
LEAST_SIMILARITY = 0.6
LEAST_SHARED = 0.25  # of the n-grams
COMPARED = 24  # terms of a run of words
KEPT_COUNTS = 8  # words whose n-grams are counted, each a byte for each key
# Chosen on 36 Hindi clips that had not trained the model. Of the terms that it had missed, 17 %
# were the first of all near a window with a cost of 1, and 23 % with 2; 35 and 53 % in the first 5.
EDIT_COST = 2.0
LENGTHS = (0.55, 1.8)  # of a term in phones, for each of the run


@dataclass(frozen=True, slots=True)
class NearTerm:
    """A term that words of a transcript may have meant.

    `start` and `end` are the first character of the words, and the one behind them. `similarity`
    is from 0 to 1, which is the same sound or spelling. `agreeing` is the number of the term's
    phones less EDIT_COST for each edit that makes the words of it: a long term is rarely near by
    chance, and one of which half is wrong often is.
    """

    term: Term
    start: int
    end: int
    similarity: float
    agreeing: float


class TermIndex:
    """The terms of a glossary in a language, by their sound and spelling."""

    def __init__(self, glossary: Glossary, language: str) -> None:
        self._use(make_tables(glossary, language), language)

    @classmethod
    def of(cls, tables: Tables, language: str) -> "TermIndex":
        """The index with tables that are built."""
        made = cls.__new__(cls)
        made._use(tables, language)
        return made

    def _use(self, tables: Tables, language: str) -> None:
        self.language = language
        self._tables = tables
        self._written = frozenset(tables.terms)

    def __len__(self) -> int:
        return len(self._tables.terms)

    def near(self, text: str, most: int = 16, agreeing: float = 0.0) -> list[NearTerm]:
        """The terms near words of `text`, at most `most` of them, those first that agree on the
        most phones. They agree on at least `agreeing`. Of overlapping words near one term, the best
        are taken.

        Words that are written as a term stay as they are. Candidates of one place may overlap
        those of another.
        """
        if not len(self._tables.numbers):
            return []
        right = self.written(text)
        units, runs = parts(text)
        runs = [it for it in runs if not overlaps(units[it[0]][0], units[it[1]][1], right)]
        counter = _Counter(self._tables.lists, [text[slice(*it)] for it in units], self.language)
        found = []
        # A decoder that loops says the same words again and again.
        similar: dict[Key, list[tuple[int, float, float]]] = {}
        # In the order of the first word, so that few counts are kept.
        for first, last in sorted(runs):
            start, end = units[first][0], units[last][1]
            key = sound_key(text[start:end], self.language)
            # A shorter run agrees on fewer.
            if len(key.fine) < agreeing:
                continue
            if key not in similar:
                similar[key] = self._similar(key, counter.run(first, last), agreeing)
            found += [
                NearTerm(Term(self._tables.terms[number]), start, end, similarity, agree)
                for number, similarity, agree in similar[key]
            ]
        return ranked(found)[:most]

    def written(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of the words of a text that are written as a term."""
        return [(start, end) for start, end in spans(text) if text[start:end] in self._written]

    def _similar(self, key: Key, run: "_Run", agreeing: float) -> list[tuple[int, float, float]]:
        """(number of a term, similarity, agreeing phones) of the terms near a key."""
        length = len(key.fine)
        lengths = max(agreeing, LENGTHS[0] * length), LENGTHS[1] * length + 2
        # In the type of the table, which would be copied otherwise.
        bounds = np.array([math.ceil(lengths[0]), int(lengths[1])], np.int32)
        low, high = np.searchsorted(self._tables.lengths, bounds).tolist()
        if low >= high or not run.grams:
            return []
        shared = run.shared(low, high)
        least = min(MOST_SHARED, math.ceil(LEAST_SHARED / 2 * (1 + run.grams)))
        near = np.flatnonzero(shared >= np.uint8(least))
        sizes = self._tables.lists.sizes[low:high][near]
        score = 2.0 * shared[near] / (sizes + run.grams)
        near, score = near[score >= LEAST_SHARED], score[score >= LEAST_SHARED]
        if len(near) > COMPARED:
            near = near[np.argpartition(-score, COMPARED)[:COMPARED]]
        rows = near + low
        similarity = _similarity(key, self._tables, rows)
        phones = self._tables.lengths[rows]
        agree = phones - EDIT_COST * (1 - similarity) * np.maximum(phones, length)
        kept = np.flatnonzero((similarity >= LEAST_SIMILARITY) & (agree >= agreeing))
        numbers = self._tables.numbers[rows[kept]]
        return list(
            zip(numbers.tolist(), similarity[kept].tolist(), agree[kept].tolist(), strict=True)
        )


def _similarity(key: Key, tables: Tables, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of a key to those in some rows, from 0 to 1."""

    def of(part: str, texts: Texts) -> NDArray[np.float64]:
        there = [texts[it] for it in rows.tolist()]
        same = Levenshtein.normalized_similarity
        return np.asarray(cdist([part], there, scorer=same, dtype=np.float64)[0])

    if not len(rows):
        return np.zeros(0)
    phones, broad = of(key.fine, tables.fine), of(key.coarse, tables.coarse)
    return np.maximum((phones + broad) / 2, of(key.letters, tables.letters))


@dataclass(frozen=True, slots=True)
class _Run:
    """Words one after the other: how many n-grams they have, and each key has of each word."""

    grams: int
    counts: Sequence[NDArray[np.uint8]]

    def shared(self, low: int, high: int) -> NDArray[np.uint8]:
        """How many n-grams the keys from `low` to `high` share with the words.

        The n-grams across two words are not counted.
        """
        total = self.counts[0][low:high]
        for it in self.counts[1:]:
            total = total + it[low:high]
        return total


class _Counter:
    """Counts for each word the n-grams that keys share with it, and keeps the last counts."""

    def __init__(self, lists: Lists, words: Sequence[str], language: str) -> None:
        self._lists = lists
        self._keys = [sound_key(it, language) for it in words]
        different = list(dict.fromkeys(self._keys))
        grams = map(lists.rare, grams_of_each(different))
        self._grams = dict(zip(different, grams, strict=True))
        self._counts: OrderedDict[Key, NDArray[np.uint8]] = OrderedDict()

    def run(self, first: int, last: int) -> _Run:
        """Of the words from `first` to `last`."""
        keys = self._keys[first : last + 1]
        counts = [self._count(key) for key in keys]
        return _Run(sum(len(self._grams[it]) for it in keys), counts)

    def _count(self, key: Key) -> NDArray[np.uint8]:
        if key not in self._counts:
            self._counts[key] = self._lists.shared(self._grams[key])
        self._counts.move_to_end(key)
        while len(self._counts) > KEPT_COUNTS:
            self._counts.popitem(last=False)
        return self._counts[key]


def ranked(found: Iterable[NearTerm]) -> list[NearTerm]:
    """Those first that agree on the most phones. Of overlapping words near one term, the best."""
    order = sorted(found, key=lambda it: (-it.agreeing, it.end - it.start, it.start, it.term.text))
    taken: dict[str, list[tuple[int, int]]] = {}
    best = []
    for it in order:
        places = taken.setdefault(it.term.text, [])
        if not overlaps(it.start, it.end, places):
            places.append((it.start, it.end))
            best.append(it)
    return best


def overlaps(start: int, end: int, places: Iterable[tuple[int, int]]) -> bool:
    """Whether the part of a text from `start` to `end` overlaps one of `places`."""
    return any(start < last and first < end for first, last in places)


def spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of the runs of a text, see `parts`."""
    units, runs = parts(text)
    return [(units[first][0], units[last][1]) for first, last in runs]


def parts(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(start, end) of the words of a text, without the punctuation around them; and (first, last)
    of runs of one to three of them.

    Scripts without spaces have "words" of some lengths at every character, and each is a run.
    """
    if sum(map(is_unspaced, text)) * 2 > len(text):
        places = [place for place, char in enumerate(text) if char.isalnum()]
        ends = [(at, at + size) for size in UNSPACED_SPANS for at in range(len(places) - size + 1)]
        units = [(places[first], places[last - 1] + 1) for first, last in ends]
        return units, [(it, it) for it in range(len(units))]
    words = [_bare(text, match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    words = [(start, end) for start, end in words if end > start]
    return words, [
        (first, first + size - 1)
        for size in range(1, MOST_WORDS + 1)
        for first in range(len(words) - size + 1)
    ]


def _bare(text: str, start: int, end: int) -> tuple[int, int]:
    """A word without the signs around it."""
    while start < end and not _is_letter(text[start]):
        start += 1
    while end > start and not _is_letter(text[end - 1]):
        end -= 1
    return start, end


def _is_letter(char: str) -> bool:
    # A vowel sign is a mark: neither alpha nor digit.
    return char.isalnum() or unicodedata.category(char)[0] == "M"
