"""Languages: codes, names, aliases, stand-ins."""

import pytest

from lorajob.errors import UsageError
from lorajob.language_tables import ALIASES, REGIONAL, SCRIPTS, STAND_INS, WHISPER
from lorajob.languages import find_language, is_locale, is_locale_of, known_languages


def test_whispers_languages_are_those_of_the_tokenizer_in_use():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    assert {code: name.lower() for code, name in WHISPER.items()} == LANGUAGES
    assert len(WHISPER) == 100
    for name, code in TO_LANGUAGE_CODE.items():
        assert find_language(name).code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("hi", "hi"),
        (" HINDI ", "hi"),
        ("pa-IN", "pa"),
        ("pa_in", "pa"),
        ("sv-SE", "sv"),
        ("nb-NO", "no"),
        ("hy-AM", "hy"),
        ("ga-IE", "ga"),
        ("pt-BR", "pt"),
        ("es-419", "es"),
        ("zh-CN", "zh-CN"),
        ("zh-sg", "zh"),
        ("rm-vallader", "rm-vallader"),
        ("nan-tw", "nan-tw"),
        ("Farsi", "fa"),
        ("jv", "jw"),
        ("filipino", "tl"),
        ("haitian creole", "ht"),
    ],
)
def test_a_language_is_found_by_code_region_name_or_alias(text, code):
    assert find_language(text).code == code


def test_a_language_whisper_lacks_stands_on_a_related_token():
    odia = find_language("Odia")
    assert (odia.code, odia.name, odia.token) == ("or", "Odia", "bn")
    assert find_language("ga-IE").token == "cy"
    assert find_language("hi").token == "hi"


def test_every_stand_in_is_a_token_of_every_multilingual_whisper():
    for code, (name, token, reason) in (STAND_INS | REGIONAL).items():
        assert token in WHISPER, code
        assert token != "yue", code
        assert name, code
        assert reason, code
    assert not STAND_INS.keys() & WHISPER.keys()
    codes = {language.code for language in known_languages()}
    assert set(ALIASES.values()) <= codes
    assert not {alias for alias in ALIASES if alias in WHISPER or alias in STAND_INS}


def test_languages_of_newer_releases_of_common_voice_are_known():
    assert len(known_languages()) > 300
    khowar, bunun = find_language("khw"), find_language("Bunun")
    assert (khowar.name, khowar.token, khowar.scripts) == ("Khowar", "ur", ("Arab",))
    assert (bunun.code, bunun.token, bunun.scripts) == ("bnn", "tl", ("Latn",))
    assert find_language("sva").scripts == ("Geor",)


def test_every_script_is_of_a_known_language():
    assert SCRIPTS.keys() <= {language.code for language in known_languages()}
    assert all(len(code) == 4 for codes in SCRIPTS.values() for code in codes)


def test_scripts_without_spaces_are_scored_by_characters():
    by_cer = {lang.code for lang in known_languages() if lang.primary_metric == "cer"}
    chinese = {"zh", "zh-CN", "zh-TW", "zh-HK", "yue", "nan-tw"}
    assert by_cer == chinese | {"ja", "th", "lo", "km", "my"}


def test_a_misspelt_language_is_answered_with_near_matches():
    with pytest.raises(
        UsageError, match=r"^language: 'hindo' is unknown; did you mean hi \(Hindi\)"
    ):
        find_language("hindo")
    with pytest.raises(UsageError, match=r"'malayalm'.*ml \(Malayalam\)"):
        find_language("malayalm")


@pytest.mark.parametrize("text", ["", "-", "klingon!", "my-corpus", "hi-", "../hi"])
def test_what_is_no_language_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match=r"^language: ") as caught:
        find_language(text)
    assert "\n" not in str(caught.value)


def test_a_corpus_locale_belongs_to_its_language():
    assert is_locale_of("pa-IN", "pa")
    assert is_locale_of("zh-TW", "zh")
    assert is_locale_of("zh-TW", "zh-TW")
    assert not is_locale_of("zh-CN", "zh-TW")
    assert not is_locale_of("ml", "hi")
    assert not is_locale_of("my-corpus", "my")
    assert is_locale("zh-HK")
    assert not is_locale("clips")
    assert not is_locale("my-corpus")
