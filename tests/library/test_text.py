"""Cleaning and normalising transcripts."""

import unicodedata

import pytest

from lorajob.speech.text import clean, normalise


def test_clean_composes_strips_and_keeps_one_space():
    assert clean("  e\u0301t\u00e9\t\n ici  ") == "été ici"
    assert clean("\u00a0\n") == ""


@pytest.mark.parametrize(
    "text",
    [
        "हमने किताबें पढ़ीं",  # Hindi
        "தமிழ் மொழி",  # Tamil
        "తెలుగు భాష",  # Telugu
        "മലയാളം ഭാഷ",  # Malayalam
        "ภาษาไทยน้ำ",  # Thai
        "ខ្មែរ",  # Khmer
        "မြန်မာ",  # Myanmar
        "كَتَبَ الوَلَدُ",  # pointed Arabic
        "שָׁלוֹם",  # pointed Hebrew
        "የኢትዮጵያ ሕዝብ",  # Amharic
    ],
)
def test_vowel_signs_and_points_survive(text):
    assert normalise(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“Hello,   World!”", "hello world"),
        ("don’t — stop", "dont stop"),
        ("well-known", "well known"),
        ("क्या हुआ?।", "क्या हुआ"),
        ("a\u00adb\u200e c", "ab c"),
        ("I ❤\ufe0f NY", "i ny"),
        ("5 % of ۱۲", "5 of ۱۲"),
        ("STRASSE Straße", "strasse strasse"),
        ("...", ""),
    ],
)
def test_punctuation_symbols_and_case_go(text, expected):
    assert normalise(text) == expected


def test_composed_and_decomposed_spellings_are_one():
    assert normalise("क\u093c") == normalise("\u0958")
    assert normalise("Café") == normalise("Cafe\u0301")


def test_turkish_capitals_fold_and_the_dotless_i_stays_apart():
    assert normalise("İstanbul") == "istanbul"
    assert normalise("ısı") == "ısı"


def test_zero_width_joiners_make_no_error():
    assert normalise("می\u200cخواهم") == normalise("میخواهم")
    assert normalise("क्\u200dष") == normalise("क्ष")


def test_old_and_new_malayalam_chillus_are_one():
    assert normalise("അവന\u0d4d\u200d") == normalise("അവൻ") == "അവൻ"
    assert normalise("അവന\u0d4d") != normalise("അവൻ")


def test_spaces_go_only_between_letters_of_unspaced_scripts():
    assert normalise("你好，世界 OK 了") == "你好世界 ok 了"
    assert normalise("สวัสดี ครับ") == "สวัสดีครับ"
    assert normalise("नमस्ते दुनिया") == "नमस्ते दुनिया"


@pytest.mark.parametrize("text", ["İstanbul’da", "അവന\u0d4d\u200d, പോയി", "你好，世界", "ǅ ﬁ"])
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)
