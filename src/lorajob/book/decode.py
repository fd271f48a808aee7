"""Decodes with a book: terms that sound like what was heard are tried, and scored by the audio.

The first pass is the plain one. Where a term is near, the text with the term in the place of the
words is scored by the same model on the same audio: the log-probability of its tokens (teacher
forcing, one pass of the decoder for a whole text). The encoder's output is that of the first pass.
One text tries the nearest term at each place, so that one pass tries many terms. If it is too long
for the model, several texts try a part of the terms each.

The model finds a rare term unlikely before it hears anything, so the terms are also scored
without audio. That log-probability of a term is `unheard` below. It wins if

    change of the log-probability - PRIOR * unheard + PHONE * agreeing phones > needed nats

which is Bayes' rule with weights that a logistic regression found: what the audio says for the term
in place of the words, without what the model thinks of such terms. Each token of the words counts
with the mean log-probability of the first pass, so the plain text is not scored. The change must be
at least LEAST_CHANGE: a term appears only where the audio allows it. The more terms a glossary has,
the more of them are near by chance, so the more nats are needed.
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
# Chosen on clips that neither trained nor tested a model (bench/RESULTS.md), for a glossary of
# TERMS. Of more terms, more are near by chance: a limit grows by its growth times the logarithm.
TERMS = 5_000
FEWEST_TERMS = 20  # that were measured. Limits are no lower for fewer.
TRIED_PHONES, TRIED_GROWTH = 3.5, 0.45  # that agree, for a term to be tried
LEAST_TRIED = 1.5
PRIOR = 0.7  # of the nats that a term has without audio
PHONE = 1.4  # nats for a phone that agrees
NEEDED, NEEDED_GROWTH = 24.0, 2.4  # nats
LEAST_CHANGE = -25.0  # nats
LEAST_PLAIN = -12.0  # nats of a token that was heard. One of 51,865, drawn blindly, has -10.9.
BEHIND = 12  # characters behind a term, whose probability counts: the next word, if it is short
ALIGNED_FRAMES = 2  # alignments are not used, and these are the cheapest
WAITING = 4  # windows for each thread, which hold the encoder's output
UNHEARD_FRAMES = 2  # of zeros, in the place of audio


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


class _Heard(NamedTuple):
    """A term that was scored on the audio, and the change of the log-probability in nats."""

    near: NearTerm
    change: float

    @property
    def nats(self) -> float:
        """What speaks for the term, but for its log-probability without audio."""
        return self.change + PHONE * self.near.agreeing


@dataclass(frozen=True)
class _Scored:
    """The (start, end) in characters and log-probability of each token of a text."""

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


def tried_phones(terms: int) -> float:
    """How many phones must agree for one of so many terms to be tried."""
    return max(LEAST_TRIED, TRIED_PHONES + TRIED_GROWTH * _growth(terms))


def needed_nats(terms: int) -> float:
    """How many nats must speak for one of so many terms."""
    return NEEDED + NEEDED_GROWTH * _growth(terms)


def _growth(terms: int) -> float:
    return math.log(max(FEWEST_TERMS, terms) / TERMS)


class BookReader:
    """Tries the terms of an index in transcripts. Several threads may use it."""

    def __init__(self, decoder: FastDecoder, index: TermIndex) -> None:
        self._decoder, self._index = decoder, index
        self._engine = decoder.engine  # a fallback may replace the decoder's
        self._tried, self._needed = tried_phones(len(index)), needed_nats(len(index))

    def read(self, said: Transcript, sound: Sound) -> Transcript:
        """The transcript of a window with its terms."""
        near = self.near(said.text)
        return self.best(said, near, self.encoded(sound)) if near else said

    def near(self, text: str) -> list[NearTerm]:
        """The terms near a text, the nearest first."""
        if not text:
            return []
        return self._index.near(text, MOST_NEAR, self._tried)

    def tried(self, near: Sequence[NearTerm]) -> list[NearTerm]:
        """Those of the near terms that `best` tries: one at each place, the nearest."""
        chosen: list[NearTerm] = []
        for it in near:
            if all(_apart(it, other) for other in chosen):
                chosen.append(it)
        return chosen

    def encoded(self, sound: Sound) -> NDArray[np.float32]:
        """The encoder's output of one window: float32 [1, frames, width]."""
        return np.asarray(self._decoder.encode(self._decoder.mel([sound.read()])))

    def best(
        self, said: Transcript, near: Sequence[NearTerm], encoded: NDArray[np.float32]
    ) -> Transcript:
        """The transcript with the terms that win."""
        heard = self._heard(said, self.tried(near), encoded)
        likely = [it for it in heard if it.change >= LEAST_CHANGE]
        unheard = self._unheard(said.text, [it.near for it in likely], encoded.shape[2])
        won = [
            it
            for it in likely
            if it.near in unheard and it.nats - PRIOR * unheard[it.near] > self._needed
        ]
        return self._with_terms(said, won) if won else said

    def _heard(
        self, said: Transcript, terms: Sequence[NearTerm], encoded: NDArray[np.float32]
    ) -> list[_Heard]:
        """The terms scored on the audio, but for those that are too far behind in a long text."""
        whole, tries = _put(said.text, terms)
        # What stands behind the last term and the next word decides nothing.
        scored = self._score(encoded, whole[: _behind(whole, tries[-1].end)])
        if scored is None:
            return [it for half in _halves(terms) for it in self._heard(said, half, encoded)]
        places = np.array(self._decoder.labels.encode_with_places(said.text)[1]).reshape(-1, 2)
        plain = max(LEAST_PLAIN, said.log_probability)
        found = []
        for it, behind in zip(tries, [*tries[1:], None], strict=True):
            old, new = _behind(said.text, it.near.end), _behind(whole, it.end)
            if behind is not None:
                # The next term is judged on its own. Its first token includes the space before it.
                old = min(old, len(said.text[: behind.near.start].rstrip()))
                new = min(new, len(whole[: behind.start].rstrip()))
            tokens = np.count_nonzero(_inside(places, it.near.start, old))
            found.append(_Heard(it.near, _nats(scored, it.start, new) - plain * tokens))
        return found

    def _unheard(self, text: str, terms: Sequence[NearTerm], width: int) -> dict[NearTerm, float]:
        """The log-probability without audio of terms in a text, of those that `_heard` scores."""
        if not terms:
            return {}
        whole, tried = _put(text, terms)
        nothing = np.zeros((1, UNHEARD_FRAMES, width), np.float32)
        scored = self._score(nothing, whole[: tried[-1].end])
        if scored is None:
            halves = [self._unheard(text, half, width) for half in _halves(terms)]
            return {near: nats for half in halves for near, nats in half.items()}
        return {it.near: _nats(scored, it.start, it.end) for it in tried}

    def _with_terms(self, said: Transcript, won: Sequence[_Heard]) -> Transcript:
        text, tried = _put(said.text, [it.near for it in won])
        change = sum(it.change for it in won)
        tokens = len(self._decoder.labels.encode(text))
        # The changes are estimates.
        mean = min(0.0, (said.log_probability * (said.tokens + 1) + change) / (tokens + 1))
        terms = tuple(it.near.term.text for it in tried)
        return replace(said, text=text, tokens=tokens, log_probability=mean, terms=terms)

    def _score(self, encoded: NDArray[np.float32], text: str) -> _Scored | None:
        """A text scored on the audio of a window; None if it is too long for the model."""
        prompt = self._decoder.prompt
        ids, places = self._decoder.labels.encode_with_places(text)
        if len(prompt) + len(ids) >= LABEL_POSITIONS:
            return None
        [result] = self._engine.align(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(encoded)),
            # CTranslate2 adds the last token, <|notimestamps|>.
            prompt[:-1],
            [ids],
            [min(ALIGNED_FRAMES, encoded.shape[1])],
        )
        nats = np.log(np.maximum(1e-10, np.array(result.text_token_probs)))
        return _Scored(np.array(places).reshape(-1, 2), nats)


def _nats(scored: _Scored, start: int, end: int) -> float:
    """The log-probability of a part of the text."""
    return float(scored.nats[_inside(scored.places, start, end)].sum())


def _inside(places: NDArray[np.int64], start: int, end: int) -> NDArray[np.bool_]:
    """Which tokens, with these (start, end), overlap the characters from `start` to `end`."""
    return (places[:, 1] > start) & (places[:, 0] < end)


def _behind(text: str, end: int) -> int:
    """The end of the word behind `end`, or of its first part if it is long."""
    last = min(len(text), end + BEHIND)
    space = text.find(" ", end + 1, last)
    return space if space > 0 else last


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


def _halves(terms: Sequence[NearTerm]) -> list[Sequence[NearTerm]]:
    """The terms of the first and of the second half of a text, whose texts are shorter."""
    ordered, half = sorted(terms, key=lambda it: it.start), len(terms) // 2
    return [ordered[:half], ordered[half:]] if half else []


def _apart(one: NearTerm, other: NearTerm) -> bool:
    return one.end <= other.start or other.end <= one.start
