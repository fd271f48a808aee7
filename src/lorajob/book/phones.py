"""How a text of any script sounds, as a short string of broad phones.

Both sides of a look-up are folded the same way, so a coarse table is enough: `fine` keeps five
vowels and the voicing of consonants, `coarse` only the consonants that a listener rarely confuses.
Scripts of India are blocks of Unicode with one layout, and have a table. Any other script is
romanised by anyascii (licence ISC), and read with the commonest rules of English spelling.
"""

import re
import unicodedata
from functools import lru_cache

from anyascii import anyascii

LONGEST = 200  # characters of a text that are read
LONGEST_ACRONYM = 6  # letters
# The blocks of Devanagari, Bengali, Gurmukhi, Gujarati, Odia, Tamil, Telugu, Kannada, Malayalam.
_FIRST_BLOCK, _LAST_BLOCK, _BLOCK = 0x0900, 0x0D7F, 0x80
# The languages of these blocks say the vowel of a word's last consonant.
_MALAYALAM, _TAMIL, _TELUGU, _KANNADA = 0x0D00, 0x0B80, 0x0C00, 0x0C80
_SOUTH = frozenset({_MALAYALAM, _TAMIL, _TELUGU, _KANNADA})
# By the place in a block. Aspiration, length and the place of t, d and n are folded.
_VOWEL_ROW = "a a i i u u ri li e e e e o o o o"
_CONSONANT_ROW = "k k g g n c c j j n t t d d n t t d d n n p p b b m y r r l l l v x x s h"
_SIGN_ROW = "a i i u u ri ri e e e e o o o o"
_VOWELS = dict(zip(range(0x05, 0x15), _VOWEL_ROW.split(), strict=True))
_CONSONANTS = dict(zip(range(0x15, 0x3A), _CONSONANT_ROW.split(), strict=True))
_SIGNS = dict(zip(range(0x3E, 0x4D), _SIGN_ROW.split(), strict=True))
_NUKTA = {0x58: "k", 0x59: "k", 0x5A: "g", 0x5B: "z", 0x5C: "r", 0x5D: "r", 0x5E: "f", 0x5F: "y"}
_WITH_NUKTA = {"k": "k", "g": "g", "j": "z", "p": "f", "d": "r", "y": "y"}
_CHILLU = {0x0D7A: "n", 0x0D7B: "n", 0x0D7C: "r", 0x0D7D: "l", 0x0D7E: "l", 0x0D7F: "k"}
_NASAL, _VISARGA, _VIRAMA, _DOT = (0x00, 0x01, 0x02), 0x03, 0x4D, 0x3C
_PAIRS = {"റ്റ": "ട്ട", "ന്റ": "ന്ട"}  # Malayalam writes t as r here
_LABIAL = re.compile("n(?=[pbf])")
# Letters of English, the longest first.
_LATIN = (
    ("tion", "xn"), ("sch", "x"), ("tch", "c"), ("igh", "i"), ("eau", "o"), ("ough", "o"),
    ("ph", "f"), ("ck", "k"), ("sh", "x"), ("ch", "c"), ("th", "t"), ("dh", "d"), ("kh", "k"),
    ("gh", "g"), ("bh", "b"), ("jh", "j"), ("zh", "z"), ("wh", "v"), ("rh", "r"), ("qu", "kv"),
    ("ng", "ng"), ("ee", "i"), ("ea", "i"), ("oo", "u"), ("ou", "o"), ("ow", "o"), ("au", "o"),
    ("aw", "o"), ("ai", "e"), ("ay", "e"), ("ei", "e"), ("ey", "e"), ("oa", "o"), ("ie", "i"),
    ("ce", "se"), ("ci", "si"), ("cy", "si"), ("x", "ks"), ("c", "k"), ("q", "k"), ("w", "v"),
)  # fmt: skip
_LATIN_PATTERN = re.compile("|".join(part for part, _ in _LATIN))
_LATIN_PHONES = dict(_LATIN)
_LETTER_ROW = "e bi si di i ef ji ec ai je ke el em en o pi kyu ar es ti yu vi dabalyu eks vai jed"
_LETTERS = _LETTER_ROW.split()
_COARSE = str.maketrans(
    {
        "b": "p", "f": "p", "d": "t", "g": "k", "j": "c", "z": "s", "x": "s", "m": "n", "v": "u",
        "y": "i", "e": "i", "o": "u", "a": None, "h": None,
    }
)  # fmt: skip
_DOUBLED = re.compile(r"(.)\1")


@lru_cache(maxsize=65_536)
def fine(word: str) -> str:
    """The phones of a word: letters a to z and digits. Two equal ones in a row become one."""
    parts: list[str] = []
    latin = ""
    spoken = unicodedata.normalize("NFC", word[:LONGEST]).casefold()
    for pair, letters in _PAIRS.items():
        spoken = spoken.replace(pair, letters)
    for char in spoken:
        block = _block(char)
        if block is None:
            latin += char
            continue
        if latin:
            parts.append(_latin(latin))
            latin = ""
        _say(ord(char), block, parts)
    if latin:
        parts.append(_latin(latin))
    elif len(parts) > 2 and parts[-1] == "a*" and _block(word[-1]) not in _SOUTH:
        parts.pop()
    said = "".join(parts).replace("*", "")
    return _DOUBLED.sub(r"\1", _LABIAL.sub("m", said))


@lru_cache(maxsize=65_536)
def coarse(phones: str) -> str:
    """The phones that stay apart for any listener. A first vowel stays."""
    kept = _DOUBLED.sub(r"\1", phones.translate(_COARSE))
    return kept or phones[:1]


def spelled_out(text: str) -> str | None:
    """A text in phones with its acronyms as the names of their letters; None if it has none."""
    words = text.split()[:LONGEST]
    if not any(map(_is_acronym, words)):
        return None
    return "".join(_letter_names(it) if _is_acronym(it) else fine(it) for it in words)[:LONGEST]


def _is_acronym(word: str) -> bool:
    letters = [it for it in word if it.isalpha()]
    capitals = all("A" <= it <= "Z" for it in letters)
    return capitals and 2 <= len(letters) <= LONGEST_ACRONYM and len(word) <= 2 * LONGEST_ACRONYM


def _letter_names(word: str) -> str:
    names = (_LETTERS[ord(it) - ord("A")] if "A" <= it <= "Z" else fine(it) for it in word)
    return _DOUBLED.sub(r"\1", "".join(names))


def _block(char: str) -> int | None:
    """The first code of the Indian block of a character; None in any other script."""
    code = ord(char)
    return code - code % _BLOCK if _FIRST_BLOCK <= code <= _LAST_BLOCK else None


def _say(code: int, block: int, parts: list[str]) -> None:
    """Add the phones of one character of an Indian script. "a*" is a vowel that is not written."""
    place = code - block
    unwritten = bool(parts) and parts[-1] == "a*"
    if code in _CHILLU:
        parts.append(_CHILLU[code])
    elif place in _CONSONANTS or place in _NUKTA:
        parts += [_CONSONANTS.get(place) or _NUKTA[place], "a*"]
    elif place in _SIGNS or place == _VIRAMA:
        if unwritten:
            parts.pop()
        parts.append(_SIGNS.get(place, ""))
    elif place == _DOT and unwritten and len(parts) > 1:
        parts[-2] = _WITH_NUKTA.get(parts[-2], parts[-2])
    elif place in _VOWELS:
        parts.append(_VOWELS[place])
    elif place in _NASAL:
        parts.append("n")
    elif place == _VISARGA:
        parts.append("h")
    elif (digit := unicodedata.digit(chr(code), None)) is not None:
        parts.append(str(digit))


def _latin(text: str) -> str:
    """The phones of a text in any script but those of India."""
    roman = re.sub("[^a-z0-9]", "", anyascii(text).lower())[:LONGEST]
    if len(roman) > 3 and roman[-1] == "e" and roman[-2] not in "aeiou":
        roman = roman[:-1]
    said = _LATIN_PATTERN.sub(lambda match: _LATIN_PHONES[match[0]], roman)
    return said.replace("y", "i") if not said.startswith("y") else f"y{said[1:].replace('y', 'i')}"
