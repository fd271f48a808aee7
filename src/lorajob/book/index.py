"""Finds the terms that sound or look like words of a transcript: exact, by shared n-grams.

Each term is written in phones, once for each way to sound. Its n-grams, and those of its letters,
are hashed into lists of terms (an inverted index in numpy). A run of words of the transcript takes
the terms that share most of its n-grams, and compares these by edit distance.

An index is built of a part of the terms at a time, and a look-up counts a part of the lists at a
time. So neither needs much more memory than the index, nor keeps Python's lock for long.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from lorajob.book.phones import LONGEST, coarse, fine, spelled_out
from lorajob.book.terms import Glossary, Term
from lorajob.speech.text import is_unspaced, normalise

MOST_WORDS = 3  # of a transcript that are compared with one term
UNSPACED_SPANS = (2, 3, 4, 6, 8)  # characters, in scripts without spaces
LEAST_SIMILARITY = 0.6
LEAST_SHARED = 0.25  # of the n-grams
COMPARED = 24  # terms of a run of words
LENGTHS = (0.55, 1.8)  # of a term in phones, for each of the run
GRAMS = {"fine": (2, 3), "coarse": (3,), "letters": (3,)}  # lengths of the n-grams
BUCKETS = 1 << 17
PART_KEYS = 2_000  # of which the n-grams are hashed at a time
PART_ROWS = 500_000  # of lists, which are counted at a time
_PRIME = 1_000_003


@dataclass(frozen=True, slots=True)
class NearTerm:
    """A term that words of a transcript may have meant.

    `start` and `end` are the first character of the words, and the one behind them. `similarity`
    is from 0 to 1, which is the same sound or spelling. `agreeing` is the number of the term's
    phones less the edits that make the words of it: a long term is rarely near by chance.
    """

    term: Term
    start: int
    end: int
    similarity: float
    agreeing: float


@dataclass(frozen=True, slots=True)
class _Key:
    """What is compared: letters without spaces, and phones."""

    letters: str
    fine: str
    coarse: str


@dataclass(frozen=True, slots=True)
class _Lists:
    """For each n-gram the rows of the keys that have it, in ascending order.

    `rows` holds the lists one after the other, and `starts` where each begins. `sizes` is the
    number of n-grams of each key.
    """

    rows: NDArray[np.int32]
    starts: NDArray[np.int64]
    sizes: NDArray[np.float32]

    def shared(self, grams: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
        """How many of `grams` each of the keys from `low` to `high` has."""
        counts = np.zeros(high - low, np.int64)
        waiting: list[NDArray[np.int32]] = []
        held = 0
        for place, gram in enumerate(grams, start=1):
            rows = self.rows[self.starts[gram] : self.starts[gram + 1]]
            first, last = np.searchsorted(rows, [low, high])
            waiting.append(rows[first:last])
            held += int(last - first)
            if held >= PART_ROWS or place == len(grams):
                counts += np.bincount(np.concatenate(waiting) - low, minlength=high - low)
                waiting, held = [], 0
        return counts


class TermIndex:
    """The terms of a glossary in a language, by their sound and spelling."""

    def __init__(self, glossary: Glossary, language: str) -> None:
        self.glossary, self.language = glossary, language
        self._written = {term.text for term in glossary.terms}
        keys = [
            (key, number)
            for number, term in enumerate(glossary.terms)
            for key in self._term_keys(term)
        ]
        lengths = np.array([len(key.fine) for key, _ in keys], np.int32)
        # By length, so that a list has the terms of similar lengths side by side.
        order = np.argsort(lengths, kind="stable")
        self._lengths = lengths[order]
        self._keys = [keys[it][0] for it in order.tolist()]
        self._numbers = [keys[it][1] for it in order.tolist()]
        self._lists = _inverted(self._keys)

    def __len__(self) -> int:
        return len(self.glossary.terms)

    def near(self, text: str, most: int = 16, agreeing: float = 0.0) -> list[NearTerm]:
        """The terms near words of `text`, at most `most` of them, those first that agree on the
        most phones. They agree on at least `agreeing`. Of overlapping words near one term, the best
        are taken.

        Words that are written as a term stay as they are. Candidates of one place may overlap
        those of another.
        """
        if not self._keys:
            return []
        right = self.written(text)
        runs = [it for it in spans(text) if not overlaps(*it, right)]
        keyed = [(run, self._key(text[run[0] : run[1]])) for run in runs]
        # A shorter run agrees on fewer.
        keyed = [(run, key) for run, key in keyed if len(key.fine) >= agreeing]
        # A decoder that loops says the same words again and again.
        keys = list(dict.fromkeys(key for _, key in keyed))
        similar = {
            key: list(self._similar(key, grams, agreeing))
            for key, grams in zip(keys, _grams_of_each(keys), strict=True)
        }
        found = [
            NearTerm(self.glossary.terms[number], start, end, similarity, agree)
            for (start, end), key in keyed
            for number, similarity, agree in similar[key]
        ]
        return ranked(found)[:most]

    def written(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of the words of a text that are written as a term."""
        return [(start, end) for start, end in spans(text) if text[start:end] in self._written]

    def _term_keys(self, term: Term) -> Iterable[_Key]:
        letters = normalise(term.text, self.language).replace(" ", "")[:LONGEST]
        for heard in term.sounds or (term.text,):
            key = self._key(heard)
            if key.fine or letters:
                yield _Key(letters, key.fine, key.coarse)
        if not term.sounds and (names := spelled_out(term.text)):
            yield _Key(letters, names, coarse(names))

    def _key(self, text: str) -> _Key:
        words = normalise(text, self.language)[: 2 * LONGEST].split()
        phones = "".join(map(fine, words))[:LONGEST]
        return _Key("".join(words)[:LONGEST], phones, coarse(phones))

    def _similar(
        self, key: _Key, grams: NDArray[np.int64], agreeing: float
    ) -> Iterable[tuple[int, float, float]]:
        """(number of a term, similarity, agreeing phones) of the terms near a key."""
        length = len(key.fine)
        lengths = max(agreeing, LENGTHS[0] * length), LENGTHS[1] * length + 2
        low, high = np.searchsorted(self._lengths, [math.ceil(lengths[0]), int(lengths[1])])
        if low >= high or not len(grams):
            return
        shared = self._lists.shared(grams, int(low), int(high))
        near = np.flatnonzero(shared >= LEAST_SHARED / 2 * (1 + len(grams)))
        score = 2 * shared[near] / (self._lists.sizes[low:high][near] + len(grams))
        near, score = near[score >= LEAST_SHARED], score[score >= LEAST_SHARED]
        if len(near) > COMPARED:
            near = near[np.argpartition(-score, COMPARED)[:COMPARED]]
        for row in near + low:
            similarity = _similarity(key, self._keys[row])
            phones = len(self._keys[row].fine)
            agree = phones - (1 - similarity) * max(phones, length)
            if similarity >= LEAST_SIMILARITY and agree >= agreeing:
                yield self._numbers[row], similarity, agree


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
    """(start, end) of runs of one to three words, without the punctuation around them.

    Scripts without spaces have runs of some lengths at every character.
    """
    if sum(map(is_unspaced, text)) * 2 > len(text):
        places = [place for place, char in enumerate(text) if char.isalnum()]
        ends = [(at, at + size) for size in UNSPACED_SPANS for at in range(len(places) - size + 1)]
        return [(places[first], places[last - 1] + 1) for first, last in ends]
    words = [_bare(text, match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    words = [(start, end) for start, end in words if end > start]
    return [
        (words[first][0], words[first + size - 1][1])
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


def _similarity(one: _Key, other: _Key) -> float:
    phones = Levenshtein.normalized_similarity(one.fine, other.fine)
    broad = Levenshtein.normalized_similarity(one.coarse, other.coarse)
    letters = Levenshtein.normalized_similarity(one.letters, other.letters)
    return float(max((phones + broad) / 2, letters))


def _inverted(keys: Sequence[_Key]) -> _Lists:
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
    return _Lists(placed, starts, sizes)


def _grams_of_each(keys: Sequence[_Key]) -> list[NDArray[np.int64]]:
    """The hashed n-grams of each key, each once."""
    grams, rows = _grams(keys)
    rows, grams = np.divmod(np.unique(rows * BUCKETS + grams), BUCKETS)
    return np.split(grams, np.searchsorted(rows, np.arange(1, len(keys)))) if keys else []


def _grams(keys: Sequence[_Key]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
