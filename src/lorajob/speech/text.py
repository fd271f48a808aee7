"""Cleans transcripts for training and normalises them for scoring."""

import re
import unicodedata
from functools import partial

from lorajob.speech.spellings import one_spelling, one_spelling_of

# Variation selectors, the grapheme joiner and tatweel change a glyph or its width, never the word.
# They are listed because all but tatweel have the category Mn, which is kept otherwise.
# Hangul fillers and two Khmer vowels have no shape.
_GLYPH_ONLY = re.compile(
    "[\u0640\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\uffa0"
    "\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
# Full and half width, ligatures and Arabic presentation forms: compatible forms of other letters.
# Also digraphs, Roman and circled numbers, squared words, and the radicals of Han characters.
_FORMS = re.compile(
    "[\u0132\u0133\u01c4-\u01cc\u01f1-\u01f3\u2160-\u217f\u2460-\u2473\u2e9f\u2ef3\u2f00-\u2fd5"
    "\u3200-\u33ff\ufb00-\ufb06\ufb50-\ufdff\ufe70-\ufefc\uff01-\uffee\U0001d400-\U0001d7ff]+"
)
APOSTROPHES = "'’‘‛`´′ʹʻʼʽˈꞌ＇"
_APOSTROPHES = re.compile(f"[{APOSTROPHES}]")
# Languages in which an apostrophe is a letter: it makes another word (Ukrainian, Belarusian, Uzbek,
# Hawaiian, Breton, Samoan, Tongan, Tahitian, Guarani).
WITH_APOSTROPHE = frozenset({"uk", "be", "uz", "haw", "br", "sm", "to", "ty", "gn"})
_APOSTROPHE = "\u02bc"
_OTHER_APOSTROPHES = re.compile(f"[{APOSTROPHES.replace(_APOSTROPHE, '')}]")
_LETTER_APOSTROPHE = re.compile(f"{_APOSTROPHES.pattern}(?=[^\\W\\d_])")
# Hawaiian and its relatives begin words with it.
BEGINS_WORDS = frozenset({"haw", "sm", "to", "ty"})
_QUOTE = re.compile(f"(?<![^\\W\\d_]){_APOSTROPHES.pattern}")
# Marks inside words that are no separators: Hebrew geresh and gershayim, Armenian accents.
_INNER_MARKS = re.compile(
    '(?<=[\u05d0-\u05ea])[\u05f3\u05f4"”“](?=[\u05d0-\u05ea])|\u05f3|[\u055a-\u055f]'
)
_CATALAN_POINT = re.compile("(?<=l)[\u00b7\u2022\u2027\u22c5.](?=l)|\u0140(?=l)", re.IGNORECASE)
DOTTED_I = frozenset({"tr", "az", "crh"})  # whose capital of i is İ, and of ı is I
# Thai and Lao vowels that can be typed as two characters.
_SARA_AM = (
    (re.compile("\u0e4d?([\u0e48-\u0e4b]?)\u0e4d?\u0e32"), "\u0e4d", "\u0e33"),
    (re.compile("\u0ecd?([\u0ec8-\u0ecb]?)\u0ecd?\u0eb2"), "\u0ecd", "\u0eb3"),
)
_PAIRS = {"\u0e40\u0e40": "\u0e41", "\u0ec0\u0ec0": "\u0ec1", "\u0edc": "ຫນ", "\u0edd": "ຫມ"}
_UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "km", "my", "yue"})

# Scripts without spaces between words. A space in them separates phrases and is optional.
_UNSPACED = (
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u0e01-\u0e3a\u0e40-\u0e5b\u0e80-\u0eff"  # Thai, Lao
    "\u1780-\u17ff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Khmer, Myanmar
)
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
_ANY_SPACE = re.compile(f"(?<=[{_UNSPACED}]) | (?=[{_UNSPACED}])")
_INNER_SPACE = re.compile(f"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")


def clean(text: str) -> str:
    """A transcript for training: NFC, with each run of whitespace as one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_unspaced(char: str) -> bool:
    """Whether a character is of a script without spaces between words."""
    return _UNSPACED_LETTER.match(char) is not None


def normalise(text: str, language: str) -> str:
    """A transcript for scoring: only the words, without typography.

    The text becomes NFC and case-folded. Letters, digits and all combining marks stay. (Whisper's
    own normaliser drops Mn and Mc, which are the vowels of Indic scripts.) Punctuation and symbols
    become a space, but apostrophes are removed (don't -> dont).

    Format characters are removed, including zero-width joiners. These choose between shapes of one
    spelling (Persian, Hindi) and are often left out. Sequences that look alike are made one first,
    such as Malayalam letters that were once written with a joiner (`spellings.py`). Spaces are
    removed between two letters of a script that has no spaces between words.

    `language` is a code such as `uk`, or empty if it is unknown. It decides whether an apostrophe
    is a letter, how I is folded, and whether spaces beside Latin letters count in a script without
    spaces.
    """
    code = language.partition("-")[0]
    folded = _FORMS.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    folded = one_spelling(unicodedata.normalize("NFC", folded))
    if code in DOTTED_I:
        folded = folded.replace("I", "ı").replace("İ", "i")
    # Turkish İ folds to i and a combining dot. The dot adds nothing to the i.
    folded = folded.casefold().replace("i\u0307", "i")
    folded = one_spelling_of(_GLYPH_ONLY.sub("", folded), code)
    if code == "ca":
        folded = _CATALAN_POINT.sub(lambda match: "l" if match[0] == "\u0140" else "", folded)
    folded = _apostrophes(_south_east(_INNER_MARKS.sub("", folded)), code)
    kept = "".join(map(_keep, unicodedata.normalize("NFC", folded)))
    space = _ANY_SPACE if code in _UNSPACED_LANGUAGES else _INNER_SPACE
    return space.sub("", " ".join(kept.split()))


def _apostrophes(text: str, code: str) -> str:
    """Apostrophes of all kinds are removed, or are one letter in a language that has it."""
    if code not in WITH_APOSTROPHE:
        return _APOSTROPHES.sub("", text)
    if code not in BEGINS_WORDS:
        text = _QUOTE.sub("", text)
    marked = _LETTER_APOSTROPHE.sub(_APOSTROPHE, text)
    # At the end of a word it is a quote, except in Uzbek, whose letters oʻ and gʻ end with it.
    if code == "uz":
        marked = re.sub(f"(?<=[og]){_APOSTROPHES.pattern}", _APOSTROPHE, marked)
    return _OTHER_APOSTROPHES.sub("", marked)


def _whole_sign(sign: str, whole: str, match: re.Match[str]) -> str:
    return f"{match[1]}{whole}" if sign in match[0] else match[0]


def _south_east(text: str) -> str:
    """Thai and Lao vowels in one spelling."""
    for pattern, sign, whole in _SARA_AM:
        if sign in text:
            text = pattern.sub(partial(_whole_sign, sign, whole), text)
    for pair, one in _PAIRS.items():
        text = text.replace(pair, one)
    return text


def _keep(char: str) -> str:
    category = unicodedata.category(char)
    if category[0] in "LN" or category in ("Mn", "Mc"):
        return char
    return "" if category == "Cf" else " "
