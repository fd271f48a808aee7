"""What a glossary brings on test clips: its words that are right, missed, and never said."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lorajob.book.terms import Glossary
from lorajob.languages import CER_TOKENS, find_language
from lorajob.speech.text import normalise


@dataclass(frozen=True)
class TermCounts:
    """Counts over all clips. A term counts as often as it is said."""

    said: int
    """Terms in the references."""
    missed: int
    """Of these, those that the transcripts lack."""
    false_alarms: int
    """Terms in the transcripts that the references lack."""
    words: int
    """Words of the references; characters in languages without spaces."""

    @property
    def false_alarms_a_thousand(self) -> float:
        """False alarms in 1,000 words."""
        return 1000 * self.false_alarms / max(1, self.words)


class TermCounter:
    """Counts the terms of a glossary in texts of a language, normalised as for error rates."""

    def __init__(self, glossary: Glossary, language: str) -> None:
        self._language = language
        self._spaced = find_language(language).token not in CER_TOKENS
        self._terms = {units for it in glossary.terms if (units := self._units(it.text))}
        self._lengths = sorted({len(it) for it in self._terms})

    def count(self, references: Sequence[str], hypotheses: Sequence[str]) -> TermCounts:
        """Compare transcripts with their references, clip by clip."""
        said = missed = false_alarms = words = 0
        for reference, hypothesis in zip(references, hypotheses, strict=True):
            units = self._units(reference)
            right, heard = self._found(units), self._found(self._units(hypothesis))
            words += len(units)
            said += right.total()
            missed += (right - heard).total()
            false_alarms += (heard - right).total()
        return TermCounts(said, missed, false_alarms, words)

    def _units(self, text: str) -> tuple[str, ...]:
        """The words of a text, or its characters if the language has no spaces."""
        plain = normalise(text, self._language)
        return tuple(plain.split() if self._spaced else plain.replace(" ", ""))

    def _found(self, units: tuple[str, ...]) -> Counter[tuple[str, ...]]:
        """How often each term is in a text. Of terms that overlap, all count."""
        return Counter(
            run
            for length in self._lengths
            for at in range(len(units) - length + 1)
            if (run := units[at : at + length]) in self._terms
        )
