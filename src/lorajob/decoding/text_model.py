"""A model of text: how likely a sentence is, by n-grams of characters. It scores transcripts.

Characters serve all scripts alike: those without spaces between words, and languages whose words
have so many forms that most are new in every text. `text_counts.py` makes a model of lines.

    P(c | h) = p(h c) + backoff(h) * P(c | h without its first character)

This is interpolated modified Kneser-Ney (Chen and Goodman 1998). An n-gram is known by a hash of 64
bits: among 10 million n-grams, two share a hash with a probability of 3 in a million.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lorajob.errors import ModelError
from lorajob.job.jobdir import write_whole
from lorajob.speech.text import normalise

FORMAT = 1
ORDER = 8  # characters of the longest n-gram
BEGIN, END = 1, 2  # stand around each sentence; normalised texts have no control characters
# If a context says nothing of the next character: the probability of all characters that the texts
# lack, and how many these may be.
UNKNOWN, UNKNOWN_CHARACTERS = 0.01, 2**16
BASE = np.uint64(0x9E3779B97F4A7C15)

_ARRAYS = ("keys", "probability", "backoff")

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Level:
    """The n-grams of one length.

    `keys` are their hashes, sorted. `probability` is the discounted probability of the last
    character, and `backoff` the weight of the shorter n-grams behind this one as context.
    """

    keys: Hashes
    probability: NDArray[np.float32]
    backoff: NDArray[np.float32]

    def find(self, hashes: Hashes) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The places of `hashes` in the arrays, and whether they are known at all."""
        if not len(self.keys):
            return np.zeros(len(hashes), np.intp), np.zeros(len(hashes), np.bool_)
        places = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        return places, self.keys[places] == hashes


@dataclass(frozen=True)
class LanguageModel:
    """The probabilities of sentences in the language of the code `language`.

    `empty` is the weight of a character for which the n-grams of one character say nothing.
    """

    language: str
    levels: tuple[Level, ...]
    empty: float

    def score(self, text: str) -> float:
        """The log-probability of a sentence in nats, with that of its end.

        The text is normalised as for the error rates.
        """
        return self.scores([text])[0]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The scores of several sentences, in less time than one after the other."""
        if not texts:
            return []
        codes, starts = as_codes([normalise(text, self.language) for text in texts])
        values = np.log(self._probabilities(codes, starts))
        # The begin of a sentence is given, not predicted.
        values[starts] = 0.0
        return [float(it) for it in np.add.reduceat(values, starts)]

    def length(self, text: str) -> int:
        """The characters of a text that are scored."""
        return len(normalise(text, self.language))

    def _probabilities(self, codes: Hashes, starts: NDArray[np.intp]) -> NDArray[np.float64]:
        """float64 of each character after those before it in its sentence."""
        found = np.full(len(codes), self.empty * UNKNOWN / UNKNOWN_CHARACTERS)
        known = np.zeros(len(codes), np.bool_)
        weight = np.ones(len(codes), np.float32)
        orders = ngrams(codes, starts, len(self.levels))
        for order, (level, (hashes, inside)) in enumerate(zip(self.levels, orders, strict=True)):
            places, now = level.find(hashes)
            if order:
                # `known` and `weight` are those of the n-gram before: it is the context.
                inside &= np.roll(known, 1)
                found *= np.where(inside, np.roll(weight, 1), 1.0)
            else:
                found[now] = self.empty * (1 - UNKNOWN) / max(1, len(level.keys) - 1)
            found += np.where(inside & now, level.probability[places], 0.0)
            weight, known = np.where(now, level.backoff[places], 1.0), now
        return found

    def save(self, path: Path) -> None:
        """Write the model to a .safetensors file. The same model gives the same bytes."""
        arrays: dict[str, NDArray[Any]] = {}
        for order, level in enumerate(self.levels, start=1):
            arrays[f"keys{order}"] = level.keys
            arrays[f"probability{order}"] = level.probability
            arrays[f"backoff{order}"] = level.backoff
        head = {"format": FORMAT, "language": self.language, "empty": self.empty}
        write_whole(path, save(arrays, {"text_model": json.dumps(head)}))

    @classmethod
    def load(cls, path: Path) -> "LanguageModel":
        """Read a model. Raises ModelError if it is missing, damaged or of a newer lorajob."""
        try:
            with safe_open(path, "np") as held:
                head = json.loads(held.metadata()["text_model"])
                if head["format"] > FORMAT:
                    raise ModelError(f"{path}: written by a newer lorajob; update lorajob")
                arrays = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
            orders = range(1, len(arrays) // len(_ARRAYS) + 1)
            levels = tuple(_level([arrays[f"{it}{order}"] for it in _ARRAYS]) for order in orders)
            return cls(str(head["language"]), levels, float(head["empty"]))
        # The header is JSON, which may be nested too deeply.
        except (
            OSError,
            SafetensorError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
        ) as error:
            raise ModelError(
                f"{path}: missing or damaged ({error}); copy it again from the job's folder"
            ) from None


def _level(arrays: Sequence[NDArray[np.generic]]) -> Level:
    """A level of arrays that were read. Raises ValueError if they do not belong together."""
    keys, probability, backoff = arrays
    if not len(keys) == len(probability) == len(backoff):
        raise ValueError("arrays of different lengths")
    return Level(
        keys.astype(np.uint64, casting="safe", copy=False),
        probability.astype(np.float32, casting="safe", copy=False),
        backoff.astype(np.float32, casting="safe", copy=False),
    )


def as_codes(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.intp]]:
    """The characters of normalised texts, each between BEGIN and END, and where each begins."""
    joined = "".join(f"{chr(BEGIN)}{text}{chr(END)}" for text in texts)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    return codes.astype(np.uint64), np.flatnonzero(codes == BEGIN)


def ngrams(
    codes: Hashes, starts: NDArray[np.intp], orders: int
) -> Iterator[tuple[Hashes, NDArray[np.bool_]]]:
    """For each length: the hashes of the n-grams that end at each character, and which of them
    lie within a sentence. The others are no n-grams.

    The hash of an n-gram is that of its context times BASE, plus that of its last character.
    """
    last = codes * BASE
    last = (last ^ (last >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    last ^= last >> np.uint64(32)
    age = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    hashes = last
    for order in range(1, orders + 1):
        yield hashes, age >= order - 1
        hashes = np.roll(hashes, 1) * BASE + last
