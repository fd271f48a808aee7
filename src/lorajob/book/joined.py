"""Several indexes that are searched as one, such as those of a language and of a request."""

from collections.abc import Callable, Sequence
from typing import Any

from lorajob.book.index import NearTerm, TermIndex
from lorajob.book.terms import Glossary


class JoinedIndex(TermIndex):
    """The terms of several indexes of one language. It copies none of them."""

    def __init__(self, parts: Sequence[TermIndex]) -> None:
        super().__init__(Glossary(), parts[0].language)
        self._parts = tuple(parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def near(self, text: str, most: int = 16, *more: Any, **named: Any) -> list[NearTerm]:
        """As `TermIndex.near`, whose further arguments are passed on to each part.

        A term that several parts have is found once in each place.
        """
        looks: list[Callable[..., list[NearTerm]]] = [part.near for part in self._parts]
        found: dict[tuple[str, int, int], NearTerm] = {}
        for it in (it for look in looks for it in look(text, most, *more, **named)):
            place = it.term.text, it.start, it.end
            if place not in found or found[place].similarity < it.similarity:
                found[place] = it
        ranked = sorted(found.values(), key=lambda it: (-it.similarity, it.start, it.term.text))
        return ranked[:most]
