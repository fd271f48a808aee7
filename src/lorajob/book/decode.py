"""Decodes with a book: the terms that sound like what was heard are tried, and scored by the audio.

The first pass is the plain one. Where a term is near, the text with the term in the place of the
words is scored by the same model on the same audio, without a prompt: the log-probability of its
tokens (teacher forcing). A term gets a bonus, and wins if the sum is higher than that of the first
text. So a term appears only where the audio allows it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from lorajob.book.index import NearTerm, TermIndex
from lorajob.decoding.fallback import Transcript
from lorajob.decoding.fast import BATCH_WINDOWS, FastDecoder, Sound

MOST_CANDIDATES = 8  # of a window
BONUS = 3.0  # nats for a term


class SentenceScores(Protocol):
    """A model of a language's text."""

    def score(self, text: str) -> float:
        """The log-probability of a normalised sentence, in nats."""


@dataclass(frozen=True)
class Book:
    """Terms that a decoder looks up, and a model of the language's text."""

    language: str
    index: TermIndex | None = None
    lm: SentenceScores | None = None

    @property
    def is_empty(self) -> bool:
        return (self.index is None or not len(self.index)) and self.lm is None


@dataclass(frozen=True)
class _Hypothesis:
    """A text of a window, with the terms that were put in."""

    text: str
    terms: tuple[str, ...] = ()


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
    heard = decoder.decode(sounds, batch_windows, done)
    if book.index is None or not len(book.index) or decoder.engine is None:
        return heard
    found = list(heard)
    for place, (sound, said) in enumerate(zip(sounds, heard, strict=True)):
        near = book.index.near(said.text, MOST_CANDIDATES) if said.text else []
        if near:
            found[place] = _best(decoder, sound, said, near)
    return found


def _best(
    decoder: FastDecoder, sound: Sound, said: Transcript, near: Sequence[NearTerm]
) -> Transcript:
    """The transcript with the terms that win, the most probable first."""
    mel = decoder.mel([sound.read()])
    encoded = np.asarray(decoder.encode(mel))
    frames = mel.shape[-1]
    tries = [_Hypothesis(said.text), *(_put(said.text, [it]) for it in near)]
    first, *scores = _scores(decoder, encoded, frames, tries)
    gains = sorted(
        ((score - first + BONUS, number) for number, score in enumerate(scores)), reverse=True
    )
    chosen: list[NearTerm] = []
    for gain, number in gains:
        if gain > 0 and all(_apart(near[number], it) for it in chosen):
            chosen.append(near[number])
    if not chosen:
        return said
    best = _put(said.text, chosen)
    tokens = len(decoder.labels.encode(best.text))
    return replace(said, text=best.text, tokens=tokens, terms=best.terms)


def _put(text: str, chosen: Sequence[NearTerm]) -> _Hypothesis:
    """The text with terms in their places; the signs and spaces around them stay."""
    ordered = sorted(chosen, key=lambda it: it.start)
    borders = [0, *(at for it in ordered for at in (it.start, it.end)), len(text)]
    kept = [text[start:end] for start, end in pairwise(borders)][::2]
    parts = [kept[0]]
    for it, behind in zip(ordered, kept[1:], strict=True):
        parts += [it.term.text, behind]
    return _Hypothesis("".join(parts), tuple(it.term.text for it in ordered))


def _apart(one: NearTerm, other: NearTerm) -> bool:
    return one.end <= other.start or other.end <= one.start


def _scores(
    decoder: FastDecoder, encoded: NDArray[np.float32], frames: int, tries: Sequence[_Hypothesis]
) -> list[float]:
    """The log-probability of each text given the audio of one window, in nats."""
    labels = decoder.labels
    tokens = [labels.encode(it.text) for it in tries]
    features = ctranslate2.StorageView.from_array(np.repeat(encoded, len(tries), axis=0))
    prompt = decoder.prompt[-4:-1]
    results = decoder.engine.align(features, prompt, tokens, [frames] * len(tries))
    return [float(np.log(np.maximum(1e-10, it.text_token_probs)).sum()) for it in results]
