"""Sequences of characters that look alike and spell the same word, for scoring.

Sources: the Unicode Standard's chapters on the scripts, and its list of discouraged sequences
(DoNotEmit.txt). Canonical equivalents are not listed: NFC unifies these.
"""

import re
import unicodedata
from collections.abc import Mapping

# Before Unicode 5.1, Malayalam wrote a chillu as consonant, virama, ZWJ; Bengali its khanda ta.
_JOINED = {
    "ണ\u0d4d\u200d": "ൺ",
    "ന\u0d4d\u200d": "ൻ",
    "ര\u0d4d\u200d": "ർ",
    "ല\u0d4d\u200d": "ൽ",
    "ള\u0d4d\u200d": "ൾ",
    "ക\u0d4d\u200d": "ൿ",
    "ত\u09cd\u200d": "ৎ",
}
# Vowel letters that were typed as another letter and a sign.
_VOWELS = {
    "\u0905\u093e": "आ",
    "\u0905\u0945": "ॲ",
    "\u0905\u0949": "ऑ",
    "\u0906\u0945": "ऑ",
    "\u0905\u094b": "ओ",
    "\u0905\u094c": "औ",
    "\u0906\u0947": "ओ",
    "\u0906\u0948": "औ",
    "\u0985\u09be": "আ",
    "\u0a05\u0a3e": "ਆ",
    "\u0a05\u0a48": "ਐ",
    "\u0a05\u0a4c": "ਔ",
    "\u0a72\u0a3f": "ਇ",
    "\u0a72\u0a40": "ਈ",
    "\u0a72\u0a47": "ਏ",
    "\u0a73\u0a41": "ਉ",
    "\u0a73\u0a42": "ਊ",
    "\u0a85\u0abe": "આ",
    "\u0a85\u0ac7": "એ",
    "\u0a85\u0ac8": "ઐ",
    "\u0a85\u0ac9": "ઑ",
    "\u0a85\u0acb": "ઓ",
    "\u0a85\u0acc": "ઔ",
    "\u0d07\u0d57": "ഈ",
    "\u0d12\u0d57": "ഔ",
}
_OTHERS = {
    # Malayalam: the sign of au in the reformed and in the older spelling; nta.
    "\u0d57": "\u0d4c",
    "\u0d7b\u0d4d\u0d31": "\u0d28\u0d4d\u0d31",
    # Tamil: the ligature sri with either s.
    "\u0bb8\u0bcd\u0bb0\u0bc0": "\u0bb6\u0bcd\u0bb0\u0bc0",
    # Thai: long rue and lue with another sign of length.
    "\u0e24\u0e32": "\u0e24\u0e45",
    "\u0e26\u0e32": "\u0e26\u0e45",
}
# The digits of Arabic look like those of Persian and Urdu.
_DIGITS = {chr(0x0660 + digit): chr(0x06F0 + digit) for digit in range(10)}
_ANY = _JOINED | _VOWELS | _OTHERS | _DIGITS

_YEH_AND_KAF = {"\u064a": "\u06cc", "\u0649": "\u06cc", "\u0643": "\u06a9"}
_HAMZA = {"\u0626": "\u06cc\u0654", "\u06c0": "\u0647\u0654"}  # yeh and heh with a hamza above
_COMMA_BELOW = {"ş": "ș", "ţ": "ț"}
# In these languages. Pashto, Sindhi and Uyghur tell the two forms of yeh or kaf apart.
_OF_LANGUAGE: Mapping[str, Mapping[str, str]] = {
    "fa": _YEH_AND_KAF | _HAMZA,
    "ur": _YEH_AND_KAF | _HAMZA | {"\u0647": "\u06c1", "\u06c0": "\u06c1\u0654"},
    "ckb": _YEH_AND_KAF | {"\u0647\u200c": "\u06d5"},
    "ro": _COMMA_BELOW,
}

# Tone marks typed before the vowel above or below them, in Thai and Lao.
_TONE_FIRST = re.compile(
    "([\u0e48-\u0e4c])([\u0e31\u0e34-\u0e39])|([\u0ec8-\u0ecb])([\u0eb1\u0eb4-\u0ebb])"
)
# Vietnamese: the tone of oa, oe and uy at a word's end is on either vowel.
_TONE = "[\u0300\u0301\u0303\u0309\u0323]"
_FIRST_VOWEL = re.compile(f"(?:(o)({_TONE})([ae])|(u)({_TONE})(y))(?![^\\W\\d_]|[\u0300-\u036f])")


def _longest_first(pairs: Mapping[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(pairs, key=len, reverse=True))))


_ANY_PATTERN = _longest_first(_ANY)
_PATTERNS = {code: _longest_first(pairs) for code, pairs in _OF_LANGUAGE.items()}


def one_spelling(text: str) -> str:
    """A text in NFC, with one spelling of what any language may write in two ways."""
    found = _ANY_PATTERN.sub(lambda match: _ANY[match[0]], text)
    return _TONE_FIRST.sub(
        lambda match: f"{match[2] or match[4]}{match[1] or match[3]}",
        found,
    )


def one_spelling_of(text: str, code: str) -> str:
    """As `one_spelling`, for what only the language `code` writes in two ways.

    The text is case-folded and in NFC. Vietnamese becomes NFD.
    """
    if code == "vi":
        return _FIRST_VOWEL.sub(_tone_last, unicodedata.normalize("NFD", text))
    if code not in _PATTERNS:
        return text
    pairs = _OF_LANGUAGE[code]
    return _PATTERNS[code].sub(lambda match: pairs[match[0]], text)


def _tone_last(match: re.Match[str]) -> str:
    first, tone, last = (match[at] or match[at + 3] for at in (1, 2, 3))
    return f"{first}{last}{tone}"
