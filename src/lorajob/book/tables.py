"""The tables of an index, which are built once, and can be sent from one process to another."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from lorajob.book.grams import Lists, inverted
from lorajob.book.keys import Texts, keys_of_term
from lorajob.book.terms import Glossary

_TEXTS = ("terms", "letters", "fine", "coarse")
_ARRAYS = ("numbers", "lengths")
_LISTS = ("rows", "starts", "sizes")


@dataclass(frozen=True, slots=True)
class Tables:
    """Terms and their keys. The keys are ordered by their length in phones.

    So a list of the keys with an n-gram has those of similar lengths side by side.
    """

    terms: Texts
    letters: Texts
    fine: Texts
    coarse: Texts
    numbers: NDArray[np.int32]
    """Of the term of each key."""
    lengths: NDArray[np.int32]
    """Of each key in phones."""
    lists: Lists

    def to_bytes(self) -> bytes:
        """All tables, as `from_bytes` reads them."""
        arrays = {it: getattr(self, it) for it in _ARRAYS}
        arrays |= {it: getattr(self.lists, it) for it in _LISTS}
        for name in _TEXTS:
            texts: Texts = getattr(self, name)
            coded = texts.joined.encode("utf-8", "surrogatepass")
            arrays |= {name: np.frombuffer(coded, np.uint8), f"{name}_ends": texts.ends}
        written = BytesIO()
        np.savez(written, **arrays)
        return written.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Tables":
        """The tables that `to_bytes` wrote. Raises ValueError, and what zipfile raises."""
        with np.load(BytesIO(data), allow_pickle=False) as arrays:

            def texts(name: str) -> Texts:
                joined = arrays[name].tobytes().decode("utf-8", "surrogatepass")
                return Texts(joined, arrays[f"{name}_ends"])

            return cls(
                texts("terms"),
                texts("letters"),
                texts("fine"),
                texts("coarse"),
                arrays["numbers"],
                arrays["lengths"],
                Lists(arrays["rows"], arrays["starts"], arrays["sizes"]),
            )


def make_tables(glossary: Glossary, language: str) -> Tables:
    """The tables of a glossary in a language."""
    keys = [
        (key, number)
        for number, term in enumerate(glossary.terms)
        for key in keys_of_term(term, language)
    ]
    keys.sort(key=lambda it: len(it[0].fine))
    only = [key for key, _ in keys]
    return Tables(
        Texts.of(it.text for it in glossary.terms),
        Texts.of(it.letters for it in only),
        Texts.of(it.fine for it in only),
        Texts.of(it.coarse for it in only),
        np.array([number for _, number in keys], np.int32),
        np.array([len(it.fine) for it in only], np.int32),
        inverted(only),
    )
