"""What the check measures in the text of a clip: script, digits, symbols and Unicode forms."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from enum import IntFlag
from functools import cache

from lorajob.checking.sound import content_hash
from lorajob.languages import Language
from lorajob.speech.text import clean, normalise

# ISO 15924 code -> the first words of its letters' names in Unicode.
SCRIPT_WORDS = {
    "Arab": ("ARABIC",),
    "Armn": ("ARMENIAN",),
    "Beng": ("BENGALI",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Gujr": ("GUJARATI",),
    "Guru": ("GURMUKHI",),
    "Hans": ("CJK", "BOPOMOFO"),
    "Hant": ("CJK", "BOPOMOFO"),
    "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC"),
    "Khmr": ("KHMER",),
    "Knda": ("KANNADA",),
    "Kore": ("HANGUL", "CJK"),
    "Laoo": ("LAO",),
    "Latn": ("LATIN",),
    "Mlym": ("MALAYALAM",),
    "Mtei": ("MEETEI",),
    "Mymr": ("MYANMAR",),
    "Olck": ("OL",),
    "Orya": ("ORIYA",),
    "Sinh": ("SINHALA",),
    "Syrc": ("SYRIAC",),
    "Taml": ("TAMIL",),
    "Telu": ("TELUGU",),
    "Tfng": ("TIFINAGH",),
    "Thaa": ("THAANA",),
    "Thai": ("THAI",),
    "Tibt": ("TIBETAN",),
}
# Scripts whose letters look alike. A word of two of them was typed with a wrong keyboard.
ALIKE = frozenset({"LATIN", "CYRILLIC", "GREEK"})
# Letters of no script: modifiers such as apostrophes, and the sign for long vowels.
COMMON = frozenset({"MODIFIER", "FULLWIDTH", "HALFWIDTH", "FEMININE", "MASCULINE", "MICRO"})
OTHER_HALF = 0.5  # share of letters in other scripts from which a text is in another script

_MARKUP = re.compile(
    r"<[^<>\s][^<>]{0,40}>|\[[^\[\]]{1,40}\]|\{[^{}]{1,40}\}|&(?:[a-z]{2,6}|#\d+);|https?://|www\.",
    re.IGNORECASE,
)
_SYMBOLS = frozenset("@#%&*<>|[]{}_=\\/^~+§¶†‡•")
_QUOTES = frozenset("`´^¨˚")  # of category Sk, in use as apostrophes and quotes
_JOINERS = frozenset("\u200c\u200d")
_WORD = re.compile(r"[^\W\d_]+")


class Trait(IntFlag):
    """Traits of a text that the check counts."""

    DIGITS = 1
    SYMBOLS = 2
    MARKUP = 4
    INVISIBLE = 8
    MIXED_WORD = 16
    OTHER_SCRIPT = 32
    NOT_NFC = 64
    HAS_FORMS = 128  # may be spelled in several normalisation forms


@dataclass(frozen=True, slots=True)
class TextMeasures:
    """Measures of one transcript."""

    sentence: int  # hash of the normalised text
    characters: int  # of the normalised text, without spaces
    words: tuple[int, ...]  # hashes; of the characters in a language without spaces
    traits: Trait
    scripts: str = ""  # the scripts of its letters, most frequent first
    mixed: str = ""  # the first word of letters that look alike


def measure_text(raw: str, language: Language) -> TextMeasures:
    """Measure a transcript as the corpus has it."""
    text = clean(raw)
    normal = normalise(text, language.code)
    unspaced = language.primary_metric == "cer"
    words = normal.replace(" ", "") if unspaced else normal.split()
    letters = Counter(word for char in text if (word := script_of(char)))
    traits, mixed = _traits(raw, text), ""
    if not unspaced and (mixed := mixed_word(text)):
        traits |= Trait.MIXED_WORD
    own = {word for code in language.scripts for word in SCRIPT_WORDS.get(code, ())}
    total = letters.total()
    if own and total and sum(letters[word] for word in own) < OTHER_HALF * total:
        traits |= Trait.OTHER_SCRIPT
    return TextMeasures(
        sentence=content_hash(normal.encode("utf-8", "surrogatepass")),
        characters=len(normal.replace(" ", "")),
        words=tuple(content_hash(word.encode("utf-8", "surrogatepass")) for word in words),
        traits=traits,
        scripts=", ".join(word.capitalize() for word, _ in letters.most_common(3)),
        mixed=mixed,
    )


def mixed_word(text: str) -> str:
    """The first word with letters of two scripts that look alike; "" without one."""
    if text.isascii():
        return ""
    for word in _WORD.findall(text):
        if len({script_of(char) for char in word} & ALIKE) > 1:
            return str(word)
    return ""


@cache
def script_of(char: str) -> str:
    """The script of a letter, as the first word of its name; "" for all else."""
    if unicodedata.category(char)[0] != "L":
        return ""
    word = unicodedata.name(char, "").partition(" ")[0]
    return "" if word in COMMON else word


def _traits(raw: str, text: str) -> Trait:
    found = Trait(0)
    for char in set(text):
        found |= _trait_of(char)
    if _MARKUP.search(text):
        found |= Trait.MARKUP
    # `clean` makes the text NFC. Mixed forms say that the corpus has several sources.
    if unicodedata.normalize("NFC", raw) != raw:
        found |= Trait.NOT_NFC | Trait.HAS_FORMS
    return found


@cache
def _trait_of(char: str) -> Trait:
    category = unicodedata.category(char)
    if category == "Nd":
        return Trait.DIGITS
    if char in _SYMBOLS or (category[0] == "S" and char not in _QUOTES):
        return Trait.SYMBOLS
    if category in ("Cc", "Co", "Cn") or (category == "Cf" and char not in _JOINERS):
        return Trait.INVISIBLE
    marks = unicodedata.combining(char) not in (0, 9)  # 9: virama, which never composes
    decomposed = unicodedata.normalize("NFD", char) != char
    # Hangul is composed by rule, in every text.
    return Trait.HAS_FORMS if marks or decomposed else Trait(0)
