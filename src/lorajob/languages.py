"""The languages of jobs: Whisper's own, and those of Common Voice that Whisper lacks."""

import difflib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lorajob.errors import UsageError
from lorajob.language_tables import (
    ALIASES,
    OWN_NAMES,
    REGIONAL,
    SCRIPTS,
    STAND_INS,
    THREE_LETTERS,
    WHISPER,
)

# Languages without spaces between words (or with spaces only between phrases). Their error rate
# counts characters, because words are not marked.
CER_TOKENS = frozenset({"zh", "ja", "th", "lo", "km", "my", "yue"})

SHORT_NAME = 3  # letters; such codes are alike by chance
_REGION = re.compile("(?P<code>[a-z]{2,3})-(?:[a-z]{2}|[0-9]{3})")


@dataclass(frozen=True)
class Language:
    """A language that a job can be for.

    `code` is Whisper's code if Whisper knows the language, else Common Voice's. `token` is the
    Whisper code in the decoder's prompt: the language's own, or that of a related language if
    Whisper does not know the language.
    """

    code: str
    name: str
    token: str
    primary_metric: Literal["wer", "cer"]

    @property
    def metrics(self) -> tuple[Literal["wer", "cer"], Literal["wer", "cer"]]:
        """Both error rates, the primary one first."""
        return ("wer", "cer") if self.primary_metric == "wer" else ("cer", "wer")

    @property
    def scripts(self) -> tuple[str, ...]:
        """The ISO 15924 codes of the scripts that it is usually written in."""
        return SCRIPTS.get(self.code, ("Latn",))

    @property
    def note(self) -> str:
        """Why the token is that of another language; "" for a language's own token."""
        found = (REGIONAL | STAND_INS).get(self.code)
        return found[2] if found else ""


def find_language(text: str) -> Language:
    """Find a language by its code, its name in English or in the language itself, or an alias.

    A code may be Whisper's or Common Voice's, with or without a region. Case does not matter.
    Raises UsageError with near matches if the language is unknown.
    """
    key = unicodedata.normalize("NFC", text.strip().casefold().replace("_", "-"))
    region = _REGION.fullmatch(key)
    code = _KEYS.get(key) or (_KEYS.get(region["code"]) if region else None)
    if code is None:
        raise UsageError(f"language: {text!r} is unknown; {_hint(key)}")
    return _LANGUAGES[code]


def known_languages() -> list[Language]:
    """All languages that a job can be for, sorted by code."""
    return [_LANGUAGES[code] for code in sorted(_LANGUAGES)]


def is_locale_of(locale: str, code: str) -> bool:
    """Whether a corpus labelled `locale` (such as `pa-IN`) is in the language `code` (`pa`).

    `zh` accepts all of Common Voice's Chinese corpora, `zh-TW` only its own.
    """
    region = _REGION.fullmatch(locale.casefold())
    if region and region["code"] == code.casefold():
        return True
    try:
        return find_language(locale).code == code
    except UsageError:
        return False


def is_locale(locale: str) -> bool:
    """Whether `locale` is a language's code, with or without a region. Names are not accepted."""
    key = locale.casefold()
    region = _REGION.fullmatch(key)
    return key in _CODES or (region is not None and region["code"] in _CODES)


def _languages() -> Iterator[Language]:
    for code, name in WHISPER.items():
        yield Language(code, name, code, _metric(code))
    for code, (name, token, _reason) in (REGIONAL | STAND_INS).items():
        yield Language(code, name, token, _metric(token))


def _metric(token: str) -> Literal["wer", "cer"]:
    return "cer" if token in CER_TOKENS else "wer"


def _keys() -> dict[str, str]:
    """Map each casefolded code, name and alias to the code."""
    keys = {}
    for language in _LANGUAGES.values():
        keys[language.code.casefold()] = language.code
        keys.setdefault(language.name.casefold(), language.code)
    own = {unicodedata.normalize("NFC", name).casefold(): code for name, code in OWN_NAMES.items()}
    return own | keys | {alias.casefold(): code for alias, code in ALIASES.items()}


def _hint(key: str) -> str:
    if (code := THREE_LETTERS.get(key)) in _LANGUAGES:
        return f"did you mean {code} ({_LANGUAGES[code].name})?"
    words = [it for it in re.split(r"[\s,;+/&|]+", key) if it]
    if len(words) > 1 and all(it in _KEYS for it in words):
        return f"several languages have commas between them: {','.join(_KEYS[it] for it in words)}"
    if re.search(r"[./\\]", key):
        return "a path or url is for --corpus; give a code or name, such as hi or Hindi"
    # Of codes of two or three letters, any is near.
    names = [it for it in _KEYS if len(it) > SHORT_NAME] if len(key) > SHORT_NAME else _KEYS
    near = difflib.get_close_matches(key, names, n=6, cutoff=0.66)
    near.sort(key=lambda it: it[0] != key[0])  # few people mistake the first letter
    codes = list(dict.fromkeys(_KEYS[match] for match in near))[:3]
    if not codes:
        return "allowed: a code or name of Whisper's or Common Voice's, such as hi or Hindi"
    return "did you mean " + ", ".join(f"{code} ({_LANGUAGES[code].name})" for code in codes) + "?"


_LANGUAGES = {language.code: language for language in _languages()}
_KEYS = _keys()
_CODES = {code.casefold() for code in _LANGUAGES}
