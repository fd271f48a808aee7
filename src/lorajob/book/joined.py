"""Several indexes that are searched as one, such as those of a language and of a request."""

from collections.abc import Sequence

from lorajob.book.index import NearTerm, TermIndex, overlaps, ranked
from lorajob.book.terms import Glossary


class JoinedIndex(TermIndex):
    """The terms of several indexes of one language. It copies none of them."""

    def __init__(self, parts: Sequence[TermIndex]) -> None:
        super().__init__(Glossary(), parts[0].language)
        self._parts = tuple(parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def near(self, text: str, most: int = 16, agreeing: float = 0.0) -> list[NearTerm]:
        """As `TermIndex.near`. Words that are written as a term of any part stay as they are."""
        right = self.written(text)
        found = (it for part in self._parts for it in part.near(text, most, agreeing))
        free = [it for it in found if not overlaps(it.start, it.end, right)]
        return ranked(free)[:most]

    def written(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of the words of a text that are written as a term of any part."""
        return [place for part in self._parts for place in part.written(text)]
