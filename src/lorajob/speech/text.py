"""Cleans transcripts for training and normalises them for scoring."""

import re
import unicodedata

# Variation selectors, the grapheme joiner and tatweel change a glyph or its width, never the word.
# They are listed because all but tatweel have the category Mn, which is kept otherwise.
_GLYPH_ONLY = re.compile("[\u0640\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_APOSTROPHES = re.compile("['’‘`´＇]")

# Scripts without spaces between words. A space in them separates phrases and is optional.
_UNSPACED = (
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u0e01-\u0e3a\u0e40-\u0e5b\u0e80-\u0eff"  # Thai, Lao
    "\u1780-\u17ff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Khmer, Myanmar
)
_INNER_SPACE = re.compile(f"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")

# Before Unicode 5.1, Malayalam wrote a chillu as consonant, virama, ZWJ. NFC does not unify this
# with the newer single letter (The Unicode Standard, 12.9 Malayalam).
_CHILLUS = {
    "ണ\u0d4d\u200d": "ൺ",
    "ന\u0d4d\u200d": "ൻ",
    "ര\u0d4d\u200d": "ർ",
    "ല\u0d4d\u200d": "ൽ",
    "ള\u0d4d\u200d": "ൾ",
    "ക\u0d4d\u200d": "ൿ",
}
_CHILLU = re.compile("|".join(_CHILLUS))


def clean(text: str) -> str:
    """A transcript for training: NFC, with each run of whitespace as one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalise(text: str) -> str:
    """A transcript for scoring: only the words, without typography.

    The text becomes NFC and case-folded. Letters, digits and all combining marks stay. (Whisper's
    own normaliser drops Mn and Mc, which are the vowels of Indic scripts.) Punctuation and symbols
    become a space, but apostrophes are removed (don't -> dont).

    Format characters are removed, including zero-width joiners. These choose between shapes of one
    spelling (Persian, Hindi) and are often left out. Malayalam letters that were once written with
    a joiner are replaced by single letters first. Spaces are removed between two letters of a
    script that has no spaces between words.
    """
    folded = _CHILLU.sub(lambda match: _CHILLUS[match[0]], unicodedata.normalize("NFC", text))
    # Turkish İ folds to i and a combining dot. The dot adds nothing to the i.
    folded = folded.casefold().replace("i\u0307", "i")
    folded = _GLYPH_ONLY.sub("", _APOSTROPHES.sub("", folded))
    kept = "".join(map(_keep, unicodedata.normalize("NFC", folded)))
    return _INNER_SPACE.sub("", " ".join(kept.split()))


def _keep(char: str) -> str:
    category = unicodedata.category(char)
    if category[0] in "LN" or category in ("Mn", "Mc"):
        return char
    return "" if category == "Cf" else " "
