"""Aligns hypotheses with references and counts what was confused with what.

All texts are normalised by the rules of their `language` (a code), as for the error rates. An
alignment has the fewest edits (Levenshtein).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import jiwer

from lorajob.speech.text import normalise

Kind = Literal["same", "substituted", "deleted", "inserted"]
_KINDS: dict[str, Kind] = {
    "equal": "same",
    "substitute": "substituted",
    "delete": "deleted",
    "insert": "inserted",
}


@dataclass(frozen=True)
class Edit:
    """One word of an alignment. `said` is empty if it was inserted, `heard` if it was deleted."""

    kind: Kind
    said: str
    heard: str


@dataclass(frozen=True)
class Counts:
    """Errors of a hypothesis in words (or characters), and the length of its reference."""

    substituted: int
    deleted: int
    inserted: int
    length: int

    @property
    def errors(self) -> int:
        return self.substituted + self.deleted + self.inserted


def align(reference: str, hypothesis: str, language: str) -> list[Edit]:
    """The edits, word by word, that turn the reference into the hypothesis."""
    said, heard = normalise(reference, language), normalise(hypothesis, language)
    if not said:
        return [Edit("inserted", "", word) for word in heard.split()]
    found = jiwer.process_words(said, heard)
    edits = []
    for chunk in found.alignments[0]:
        left = found.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
        right = found.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
        for place in range(max(len(left), len(right))):
            edits.append(
                Edit(
                    _KINDS[chunk.type],
                    left[place] if place < len(left) else "",
                    right[place] if place < len(right) else "",
                )
            )
    return edits


def count_words(edits: Iterable[Edit]) -> Counts:
    """Word errors of one alignment."""
    kinds = Counter(edit.kind for edit in edits)
    length = kinds["same"] + kinds["substituted"] + kinds["deleted"]
    return Counts(kinds["substituted"], kinds["deleted"], kinds["inserted"], length)


def count_characters(reference: str, hypothesis: str, language: str) -> Counts:
    """Character errors of one hypothesis."""
    said, heard = normalise(reference, language), normalise(hypothesis, language)
    if not said:
        return Counts(0, 0, len(heard), 0)
    found = jiwer.process_characters(said, heard)
    return Counts(
        found.substitutions,
        found.deletions,
        found.insertions,
        found.hits + found.substitutions + found.deletions,
    )


def confused_characters(reference: str, hypothesis: str, language: str) -> Counter[tuple[str, str]]:
    """(said, heard) -> how often a character was replaced by another."""
    said, heard = normalise(reference, language), normalise(hypothesis, language)
    pairs: Counter[tuple[str, str]] = Counter()
    if not said:
        return pairs
    found = jiwer.process_characters(said, heard)
    for chunk in found.alignments[0]:
        if chunk.type == "substitute":
            left = found.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
            right = found.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
            pairs.update(zip(left, right, strict=True))
    return pairs
