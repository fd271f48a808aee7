"""Decodes with a book: terms that sound like what was heard are tried, and scored by the audio.

The first pass is the plain one. Where a term is near, the text with the term in the place of the
words is scored by the same model on the same audio: the log-probability of its tokens (teacher
forcing, one pass of the decoder for a whole text). The encoder's output is that of the first pass.
A text tries one term at each of its places, the nearest first, so that few passes try many terms. A
term wins if its phones agree with those of the words beyond chance, and

    phones beyond chance + credit + WEIGHT * change of the log-probability > 0

in which the log-probability falls by at most LEAST_CHANGE: a term appears only where the audio
allows it. The fewer phones agree, the less probability may be lost. The more terms a glossary has,
the more of them are near by chance.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from lorajob.book.index import NearTerm, TermIndex
from lorajob.decoding.fallback import Transcript
from lorajob.decoding.fast import BATCH_WINDOWS, FastDecoder, Sound
from lorajob.whisper.base_check import LABEL_POSITIONS

MOST_NEAR = 48  # terms of a window
MOST_TEXTS = 2  # that are scored of a window, beside the first
# Chosen on clips that neither trained nor tested a model (bench/openbook.py).
CHANCE_PHONES, CHANCE_TERMS = 5.5, 5_000  # for a glossary of so many terms
CHANCE_GROWTH = 0.45  # phones, times the logarithm of the number of terms
CREDIT, WEIGHT = 2.0, 0.4  # phones, for a glossary of so many terms, and phones a nat
LEAST_CHANCE = 3.0
LEAST_CHANGE = -20.0  # nats
BEHIND = 12  # characters behind a term, whose probability counts: the next word, if it is short
ALIGNED_FRAMES = 2  # alignments are not used, and these are the cheapest
WAITING = 4  # windows for each thread, which hold the encoder's output


@dataclass(frozen=True)
class Book:
    """Terms that a decoder looks up in a language."""

    language: str
    index: TermIndex | None = None

    @property
    def is_empty(self) -> bool:
        """Whether decoding with it is plain decoding."""
        return self.index is None or not len(self.index)


class _Tried(NamedTuple):
    """A term in a text: where the term is in the text that tries it."""

    near: NearTerm
    start: int
    end: int


@dataclass(frozen=True)
class _Scored:
    """A text, and the (start, end) in characters and log-probability of each of its tokens."""

    text: str
    places: NDArray[np.int64]
    nats: NDArray[np.float64]


def decode_with_book(
    decoder: FastDecoder,
    sounds: Sequence[Sound],
    book: Book,
    batch_windows: int = BATCH_WINDOWS,
    done: Callable[[int], None] = lambda clips: None,
) -> list[Transcript]:
    """The transcripts of `sounds`, in their order, with the terms of `book` where they were said.

    With an empty book, and where nothing is near, they are those of `decoder.decode`. So they are
    if PyTorch decodes: it scores no text.
    """
    if book.index is None or book.is_empty or decoder.engine is None:
        return decoder.decode(sounds, batch_windows, done)
    reader = BookReader(decoder, book.index)
    found: dict[int, tuple[Transcript, Future[Transcript]]] = {}
    with ThreadPoolExecutor(decoder.threads, "book") as pool:

        def heard(
            places: Sequence[int], said: Sequence[Transcript], encoded: NDArray[np.float32]
        ) -> None:
            for place, it, row in zip(places, said, encoded, strict=True):
                if near := reader.near(it.text):
                    found[place] = (it, pool.submit(reader.best, it, near, row[None]))
            waiting = [future for _, future in found.values() if not future.done()]
            for future in waiting[: -WAITING * decoder.threads]:
                future.result()

        plain = decoder.decode(sounds, batch_windows, done, heard)

        def read(place: int) -> Transcript:
            # It is encoded again if another pass heard it, or a GPU.
            if place in found and found[place][0] == plain[place]:
                return found[place][1].result()
            return reader.read(plain[place], sounds[place])

        return list(pool.map(read, range(len(plain))))


def chance_phones(terms: int) -> float:
    """How many phones agree by chance, with one of so many terms."""
    growth = CHANCE_GROWTH * math.log(max(1, terms) / CHANCE_TERMS)
    return max(LEAST_CHANCE, CHANCE_PHONES + growth)


def credit_phones(chance: float) -> float:
    """The credit of a term, if `chance` phones agree by chance.

    A smaller glossary tries terms of fewer phones, which more words sound like. So they have less.
    """
    return CREDIT * min(1.0, chance / CHANCE_PHONES)


class BookReader:
    """Tries the terms of an index in transcripts. Several threads may use it."""

    def __init__(self, decoder: FastDecoder, index: TermIndex) -> None:
        self._decoder, self._index = decoder, index
        self._engine = decoder.engine  # a fallback may replace the decoder's
        self._chance = chance_phones(len(index))
        self._needed = self._chance - credit_phones(self._chance)

    def read(self, said: Transcript, sound: Sound) -> Transcript:
        """The transcript of a window with its terms."""
        near = self.near(said.text)
        return self.best(said, near, self.encoded(sound)) if near else said

    def near(self, text: str) -> list[NearTerm]:
        """The terms that may win."""
        if not text:
            return []
        return self._index.near(text, MOST_NEAR, self._chance)

    def encoded(self, sound: Sound) -> NDArray[np.float32]:
        """The encoder's output of one window: float32 [1, frames, width]."""
        return np.asarray(self._decoder.encode(self._decoder.mel([sound.read()])))

    def best(
        self, said: Transcript, near: Sequence[NearTerm], encoded: NDArray[np.float32]
    ) -> Transcript:
        """The transcript with the terms that win, those with the highest score first."""
        tries = [_put(said.text, it) for it in _rounds(near)]
        # What stands behind the last term and the next word decides nothing.
        last = max(_behind(said.text, it.end) for it in near)
        texts = [text[: _behind(text, terms[-1].end)] for text, terms in tries]
        first, *scored = self._scores(encoded, [said.text[:last], *texts])
        if first is None:
            return said
        gains: list[tuple[float, float, NearTerm]] = []
        for text, (_, terms) in zip(scored, tries, strict=True):
            if text is None:
                continue
            for it, change in zip(terms, _changes(first, text, terms), strict=True):
                score = it.near.agreeing - self._needed + WEIGHT * change
                if score > 0 and change >= LEAST_CHANGE:
                    gains.append((score, change, it.near))
        chosen: list[NearTerm] = []
        total = 0.0
        for _, change, term in sorted(gains, key=lambda it: -it[0]):
            if all(_apart(term, it) for it in chosen):
                chosen.append(term)
                total += change
        return self._with_terms(said, chosen, total) if chosen else said

    def _with_terms(
        self, said: Transcript, chosen: Sequence[NearTerm], change: float
    ) -> Transcript:
        text, tried = _put(said.text, chosen)
        tokens = len(self._decoder.labels.encode(text))
        mean = (said.log_probability * (said.tokens + 1) + change) / (tokens + 1)
        terms = tuple(it.near.term.text for it in tried)
        return replace(said, text=text, tokens=tokens, log_probability=mean, terms=terms)

    def _scores(self, encoded: NDArray[np.float32], texts: Sequence[str]) -> list[_Scored | None]:
        """The texts of one window scored on its audio; None for one that is too long."""
        prompt = self._decoder.prompt
        read = [self._decoder.labels.encode_with_places(it) for it in texts]
        fits = [it for it, (ids, _) in enumerate(read) if len(prompt) + len(ids) < LABEL_POSITIONS]
        found: list[_Scored | None] = [None] * len(texts)
        if not fits:
            return found
        rows = np.ascontiguousarray(np.repeat(encoded, len(fits), axis=0))
        results = self._engine.align(
            ctranslate2.StorageView.from_array(rows),
            # CTranslate2 adds the last token, <|notimestamps|>.
            prompt[:-1],
            [read[it][0] for it in fits],
            [min(ALIGNED_FRAMES, encoded.shape[1])] * len(fits),
        )
        for it, result in zip(fits, results, strict=True):
            nats = np.log(np.maximum(1e-10, np.array(result.text_token_probs)))
            found[it] = _Scored(texts[it], np.array(read[it][1]).reshape(-1, 2), nats)
        return found


def _changes(first: _Scored, text: _Scored, terms: Sequence[_Tried]) -> list[float]:
    """How much the log-probability changes where each term stands, and in the word behind it."""
    found = []
    for it, behind in zip(terms, [*terms[1:], None], strict=True):
        old, new = _behind(first.text, it.near.end), _behind(text.text, it.end)
        if behind is not None:
            # The next term is judged on its own.
            old, new = min(old, behind.near.start), min(new, behind.start)
        found.append(_nats(text, it.start, new) - _nats(first, it.near.start, old))
    return found


def _nats(scored: _Scored, start: int, end: int) -> float:
    """The log-probability of a part of the text."""
    inside = (scored.places[:, 1] > start) & (scored.places[:, 0] < end)
    return float(scored.nats[inside].sum())


def _behind(text: str, end: int) -> int:
    """The end of the word behind `end`, or of its first part if it is long."""
    last = min(len(text), end + BEHIND)
    space = text.find(" ", end + 1, last)
    return space if space > 0 else last


def _rounds(near: Sequence[NearTerm]) -> list[list[NearTerm]]:
    """The terms in MOST_TEXTS groups, each of terms that stand apart; the best come first."""
    rounds: list[list[NearTerm]] = []
    left = list(near)
    while left and len(rounds) < MOST_TEXTS:
        chosen: list[NearTerm] = []
        for it in left:
            if all(_apart(it, other) for other in chosen):
                chosen.append(it)
        left = [it for it in left if it not in chosen]
        rounds.append(chosen)
    return rounds


def _put(text: str, chosen: Sequence[NearTerm]) -> tuple[str, list[_Tried]]:
    """The text with terms in their places; the signs and spaces around them stay."""
    ordered = sorted(chosen, key=lambda it: it.start)
    borders = [0, *(at for it in ordered for at in (it.start, it.end)), len(text)]
    kept = [text[start:end] for start, end in pairwise(borders)][::2]
    whole, tried = kept[0], []
    for it, behind in zip(ordered, kept[1:], strict=True):
        tried.append(_Tried(it, len(whole), len(whole) + len(it.term.text)))
        whole += it.term.text + behind
    return whole, tried


def _apart(one: NearTerm, other: NearTerm) -> bool:
    return one.end <= other.start or other.end <= one.start
