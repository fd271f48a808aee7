"""The form in which texts are trained on: case, punctuation, digits. By default all stay.

Words for numbers come from the Unicode CLDR (package unicode-rbnf), for languages whose numbers do
not change with case or class. A number that has several forms, such as French un and une, stays in
digits, and so do decimals, times, dates, ordinals such as German 5., and years that are read in
pairs (nineteen eighty-four).
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from lorajob.spec_training import TextConfig
from lorajob.speech.text import (
    APOSTROPHES,
    BEGINS_WORDS,
    DOTTED_I,
    WITH_APOSTROPHE,
    clean,
    is_unspaced,
)

if TYPE_CHECKING:
    from unicode_rbnf import RbnfEngine

UNSPELLED = "digits that were not spelled"
# Signs that Unicode calls punctuation and that are read aloud.
_SPOKEN = frozenset("%‰&@#§％＆＠＃٪")
# Marks inside words or numbers: well-known, 3.5, 10:30, וכו״ם, al·lot, l.l. Tibetan separates
# syllables by its tsheg.
_IN_WORDS = frozenset("-‐‑·\u05f3\u05f4\u05be\u0f0b\u0f0c")
_IN_NUMBERS = frozenset(".,:/-٫٬")
# A whole number that stands alone, as it is read word for word.
_NUMBER = re.compile(r"(?<![\w.,:/+\-–$€£¥₹])(?<!\d )\d{1,6}(?![\w$€£¥₹°])(?![.,:/\-–'’]\w)(?! \d)")
# A number before a point that goes on: in these languages an ordinal, unless a sentence ends there.
_ORDINAL = re.compile(r"\.(?=\s+\S)")
_WITH_ORDINALS = frozenset({"az", "da", "de", "hu", "no", "tr"})
_YEARS = range(1100, 2100)
_IN_PAIRS = frozenset({"af", "da", "de", "en", "nl", "no", "sv"})  # read years in pairs
_INVISIBLE = str.maketrans("", "", "\u00ad\u200b")  # where CLDR lets a line break


@dataclass(frozen=True, slots=True)
class FormedText:
    """A text in the form of a job, and what is remarkable about it."""

    text: str
    remarks: tuple[str, ...] = ()


def written(text: str, config: TextConfig, language: str) -> FormedText:
    """A transcript for training, in the form that `config` asks for."""
    text = clean(text)
    remarks: tuple[str, ...] = ()
    if config.digits == "spell":
        text = _NUMBER.sub(lambda match: _spelled(match, language), text)
        remarks = (UNSPELLED,) if any(char.isdecimal() for char in text) else ()
    if config.punctuation == "remove":
        text = _without_punctuation(text, language)
    if config.case == "lower":
        text = _lower(text, language)
    return FormedText(clean(text), remarks)


def _lower(text: str, language: str) -> str:
    if language in DOTTED_I:
        text = text.replace("İ", "i").replace("I", "ı")
    # İ of other languages: Python's own lower case has a dot too many.
    return text.replace("İ", "i").lower()


def _without_punctuation(text: str, language: str) -> str:
    kept = []
    for at, char in enumerate(text):
        if not unicodedata.category(char).startswith("P") and char not in APOSTROPHES:
            kept.append(char)
            continue
        before = text[at - 1] if at else " "
        after = text[at + 1] if at + 1 < len(text) else " "
        if _stays(char, before, after, language):
            kept.append(char)
        elif not (is_unspaced(before) and is_unspaced(after)):
            kept.append(" ")
    return "".join(kept)


def _stays(char: str, before: str, after: str, language: str) -> bool:
    """Whether punctuation between two characters belongs to a word or a number."""
    begun, goes_on = is_word_sign(before), is_word_sign(after)
    if char in _SPOKEN:
        return True
    # A letter, such as Uzbek oʻ.
    if unicodedata.category(char) == "Lm":
        return True
    if char in APOSTROPHES:
        final = begun and language == "uz" and before in "ogOG"
        initial = goes_on and language in BEGINS_WORDS
        own = language in WITH_APOSTROPHE and (final or initial)
        return (begun and goes_on) or own
    if char in _IN_NUMBERS and before.isdecimal() and after.isdecimal():
        return True
    if char in "\u0f0b\u0f0c":
        return begun
    return char in _IN_WORDS and begun and goes_on


def is_word_sign(char: str) -> bool:
    """Whether a character is a letter, a mark or a digit."""
    return unicodedata.category(char)[0] in "LMN"


def _spelled(match: re.Match[str], language: str) -> str:
    """The words of a whole number; its digits if several forms are right."""
    digits = match[0]
    number = int(digits)
    if language in _WITH_ORDINALS and _ORDINAL.match(match.string, match.end()):
        return digits
    if len(digits) > 1 and int(digits[0]) == 0:
        return digits
    if number in _YEARS and language in _IN_PAIRS:
        return digits
    return _words(number, language) or digits


@cache
def _engine(language: str) -> "RbnfEngine":
    from unicode_rbnf import RbnfEngine

    return RbnfEngine.for_language(language)


@lru_cache(maxsize=4096)
def _words(number: int, language: str) -> str:
    from unicode_rbnf import FormatPurpose

    found = _engine(language).format_number(number, FormatPurpose.CARDINAL)
    forms: set[str] = {
        text for name, text in found.text_by_ruleset.items() if "financial" not in name
    }
    return forms.pop().translate(_INVISIBLE) if len(forms) == 1 else ""
