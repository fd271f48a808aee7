"""Terms of a glossary, and the text file that holds them: a term a line.

    # People of the town council
    Zaira Okonkwo
    DGX Spark	डी जी एक्स स्पार्क|dee jee ex spark

Behind a tab stands how a term sounds, in any script, several ways with `|` between them. Empty
lines and lines that begin with `#` are skipped. A term that begins with `#` is written `\\#`.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from lorajob.errors import UsageError
from lorajob.speech.text import clean

LONGEST_TERM = 100  # characters
MOST_TERMS = 100_000
MOST_SOUNDS = 8  # of a term
MOST_CHARACTERS = LONGEST_TERM * MOST_TERMS  # of all terms and sounds
SHOWN = 40  # characters of a term in a message
# Characters of these categories break lines or have no meaning in a text.
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp", "Cn", "Co"})
# They turn the direction of the text around them (Unicode, UAX 9).
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# They show nothing and sound like nothing, such as a soft hyphen or the mark at a file's start. The
# joiners U+200C and U+200D are not among them, because they change letters.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u2060-\u2064\u206a-\u206f\ufeff"
    "\U000e0001\U000e0020-\U000e007f]"
)
_ESCAPED = ("#", "\\#", "\\\\")


class GlossaryError(UsageError):
    """A glossary cannot be read. The message names the line and what is allowed."""


@dataclass(frozen=True, slots=True)
class Term:
    """A word or a phrase as it is written, and optionally how it sounds, in any script."""

    text: str
    sounds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Glossary:
    """Terms, each once."""

    terms: tuple[Term, ...] = ()

    def text(self) -> str:
        """The file that `read_glossary` reads these terms from."""
        return "".join(f"{_line(term)}\n" for term in self.terms)

    def digest(self) -> str:
        """SHA-256 of the terms: two glossaries with the same terms in the same order agree."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def read_glossary(text: str) -> Glossary:
    """The terms of a file, in its order, in NFC, without invisible characters, each once.

    Raises GlossaryError for a line with a control character, a term over LONGEST_TERM characters
    or without a letter and a digit, and for more than `merge_glossaries` allows.
    """
    found = []
    for number, line in enumerate(_lines(_INVISIBLE.sub("", text)), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            found.append(_term(line))
        except GlossaryError as error:
            raise GlossaryError(f"line {number}: {error}") from None
    return merge_glossaries(Glossary(tuple(found)))


def decode_glossary(data: bytes) -> Glossary:
    """The terms of a file's bytes. Raises GlossaryError, also for bytes that are not UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = len(_lines(data[: error.start].decode()))
        raise GlossaryError(f"line {line} is not UTF-8; save the file as UTF-8") from None
    return read_glossary(text)


def terms_of(texts: Iterable[str]) -> Glossary:
    """The glossary of terms that came one by one, such as those of a request.

    Each is read as a line of a file is, but a `#` is a part of the term. Raises GlossaryError.
    """
    found = []
    for number, given in enumerate(texts, 1):
        text = _INVISIBLE.sub("", given)
        if not text.strip():
            continue
        try:
            found.append(_term(f"\\{text}" if text.startswith(_ESCAPED) else text))
        except GlossaryError as error:
            raise GlossaryError(f"term {number}: {error}") from None
    return merge_glossaries(Glossary(tuple(found)))


def merge_glossaries(*glossaries: Glossary) -> Glossary:
    """One glossary with the terms of all. A term with several ways to sound keeps them all.

    Raises GlossaryError for over MOST_TERMS terms, over MOST_SOUNDS ways to sound of a term, and
    over MOST_CHARACTERS characters.
    """
    sounds: dict[str, tuple[str, ...]] = {}
    for glossary in glossaries:
        for term in glossary.terms:
            known = sounds.get(term.text, ())
            both = dict.fromkeys((*known, *term.sounds)) if term.sounds else known
            if len(both) > MOST_SOUNDS:
                said = f"{len(both)} ways to sound for {term.text[:SHOWN]!r}"
                raise GlossaryError(f"{said}; at most {MOST_SOUNDS} are allowed")
            sounds[term.text] = tuple(both)
    if len(sounds) > MOST_TERMS:
        raise GlossaryError(f"{len(sounds):,} terms; at most {MOST_TERMS:,} are allowed")
    characters = sum(len(it) for text, heard in sounds.items() for it in (text, *heard))
    if characters > MOST_CHARACTERS:
        raise GlossaryError(
            f"{characters:,} characters in all terms and sounds; at most {MOST_CHARACTERS:,} are "
            "allowed"
        )
    return Glossary(tuple(Term(text, heard) for text, heard in sounds.items()))


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _term(line: str) -> Term:
    written, *behind = line.split("\t")
    if len(behind) > 1:
        raise GlossaryError(
            f"{len(behind)} tabs; a line is a term, a tab, and how it sounds, several ways with | "
            "between them"
        )
    if written.startswith("\\") and written[1:].startswith(("#", "\\")):
        written = written[1:]
    sounds = [it for it in behind[0].split("|") if it.strip()] if behind else []
    if len(sounds) > MOST_SOUNDS:
        raise GlossaryError(f"{len(sounds)} ways to sound; at most {MOST_SOUNDS} are allowed")
    return Term(_checked(written), tuple(dict.fromkeys(map(_checked, sounds))))


def _checked(text: str) -> str:
    """The text in NFC with single spaces. Raises GlossaryError."""
    # What is shown of a text that is too long has no control character.
    for char in text[: 4 * LONGEST_TERM]:
        if unicodedata.category(char) in _CONTROL or char in _TURNING:
            raise GlossaryError(f"the control character U+{ord(char):04X}; remove it")
    # First, because NFC of a long run of marks takes long.
    if len(text) > 4 * LONGEST_TERM:
        raise _too_long(text)
    text = clean(text)
    if len(text) > LONGEST_TERM:
        raise _too_long(text)
    if not any(unicodedata.category(char)[0] in "LN" for char in text):
        raise GlossaryError(f"{text[:SHOWN]!r} has no letter and no digit, so it cannot be heard")
    return text


def _too_long(text: str) -> GlossaryError:
    return GlossaryError(
        f"{text[:SHOWN].strip()}... has {len(text):,} characters; a term has at most {LONGEST_TERM}"
    )


def _line(term: Term) -> str:
    written = f"\\{term.text}" if term.text.startswith(_ESCAPED) else term.text
    return f"{written}\t{'|'.join(term.sounds)}" if term.sounds else written
