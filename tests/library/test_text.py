"""Cleaning and normalising transcripts."""

import unicodedata

import pytest
from unicode_rbnf import RbnfEngine

from lorajob.errors import UsageError
from lorajob.spec import build_spec
from lorajob.spec_training import SPELLED, TextConfig
from lorajob.speech.scoring import score
from lorajob.speech.text import clean, normalise
from lorajob.speech.written import UNSPELLED, FormedText, written


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
    assert normalise(text, "") == unicodedata.normalize("NFC", text)


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
    assert normalise(text, "") == expected


def test_composed_and_decomposed_spellings_are_one():
    assert normalise("क\u093c", "") == normalise("\u0958", "")
    assert normalise("Café", "") == normalise("Cafe\u0301", "")


def test_turkish_capitals_fold_and_the_dotless_i_stays_apart():
    assert normalise("İstanbul", "") == "istanbul"
    assert normalise("ısı", "") == "ısı"


def test_zero_width_joiners_make_no_error():
    assert normalise("می\u200cخواهم", "") == normalise("میخواهم", "")
    assert normalise("क्\u200dष", "") == normalise("क्ष", "")


def test_old_and_new_malayalam_chillus_are_one():
    assert normalise("അവന\u0d4d\u200d", "") == normalise("അവൻ", "") == "അവൻ"
    assert normalise("അവന\u0d4d", "") != normalise("അവൻ", "")


def test_spaces_go_only_between_letters_of_unspaced_scripts():
    assert normalise("你好，世界 OK 了", "") == "你好世界 ok 了"
    assert normalise("สวัสดี ครับ", "") == "สวัสดีครับ"
    assert normalise("नमस्ते दुनिया", "") == "नमस्ते दुनिया"


@pytest.mark.parametrize("text", ["İstanbul’da", "അവന\u0d4d\u200d, പോയി", "你好，世界", "ǅ ﬁ"])
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text, ""), "") == normalise(text, "")


# Spellings of one text: no error may be counted between them.
SAME = [
    ("uk", "п\u02bcять", "п'ять"),
    ("uk", "«п’ять»", "п'ять"),
    ("uk", "'слово'", "слово"),
    ("be", "сям'я", "сям\u02bcя"),
    ("uz", "o\u02bbzbek", "o‘zbek"),
    ("uz", "to\u02bb", "to'"),
    ("haw", "\u02bbŌlelo Hawai\u02bbi", "'ōlelo hawai‘i"),
    ("en", "don’t", "don't"),
    ("he", "צ׳יפס", "צ'יפס"),
    ("he", "צה״ל", 'צה"ל'),
    ("hy", "վերջացրե՞լ", "վերջացրել"),
    ("ca", "col·legi", "coŀlegi"),
    ("ca", "col·legi", "col.legi"),
    ("tr", "ISPARTA", "ısparta"),
    ("tr", "İzmir", "izmir"),
    ("az", "İSTİ", "isti"),
    ("ja", "ＡＢＣ１２３", "abc123"),
    ("ja", "ｶﾞｲﾄﾞ", "ガイド"),
    ("th", "น้ำ", "น\u0e4d\u0e49\u0e32"),
    ("th", "น้ำ", "น\u0e49\u0e4d\u0e32"),
    ("th", "เเม่", "แม่"),
    ("lo", "ນ້ຳ", "ນ\u0ecd\u0ec9\u0eb2"),
    ("lo", "\u0edcາ", "ຫນາ"),
    ("ar", "\ufefb", "لا"),
    ("fa", "می\u200cروم", "میروم"),
    ("km", "ខ្ញុំ\u200bទៅ", "ខ្ញុំទៅ"),
    ("ko", "가\u3164나", "가나"),
    ("zh", "我用 iPhone 手机", "我用iPhone手机"),
    ("zh", "GDP 增长 3 倍", "GDP增长3倍"),
    ("zh", "⼈⼝", "人口"),
    ("uk", "П\u2032ять", "п'ять"),
    ("uk", "об´єкт", "об\u02b9єкт"),
    ("uz", "ma\u02bcno", "ma'no"),
    ("uz", "G\u02bboz", "g`oz"),
    ("haw", "\u02bba\u0304ina", "‘āina"),
    ("gn", "mba\ua78ce", "mba'e"),
    ("he", "ד''ר", "ד״ר"),
    ("he", "ארה“ב", 'ארה"ב'),
    ("he", "בית־ספר", "בית ספר"),
    ("tr", "IĞDIR'da", "ığdır’da"),
    ("az", "IŞIQ", "ışıq"),
    ("ja", "５㎏、㈱", "5kg 株"),
    ("ja", "㍍", "メートル"),
    ("ja", "①", "1"),
    ("lo", "\u0ec0\u0ec0ມ່", "ແມ່"),
    ("lo", "ກີ່", "ກ\u0ec8\u0eb5"),
    ("th", "ต่าง ๆ", "ต่างๆ"),
    ("th", "กี่", "ก\u0e48\u0e35"),
    ("th", "ฤๅษี", "ฤาษี"),
    ("ar", "كتـــاب", "كتاب"),
    ("ar", "مُحَمَّد", "مُحَم\u064e\u0651د"),
    ("ar", "القرآن", "القرا\u0653ن"),
    ("fa", "علي كتاب", "علی کتاب"),
    ("fa", "خانۀ", "خانهٔ"),
    ("fa", "۱۲", "١٢"),
    ("ur", "كيا هے", "کیا ہے"),
    ("ur", "گئے", "گی\u0654ے"),
    ("ckb", "كورد ه\u200c", "کورد ە"),
    ("hi", "क़लम पढ़ना", "क\u093cलम पढ\u093cना"),
    ("mr", "अ\u0945प", "ॲप"),
    ("bn", "হঠাত্\u200d য়", "হঠাৎ য\u09bc"),
    ("pa", "ਸ਼ ਲ਼", "ਸ\u0a3c ਲ\u0a3c"),
    ("gu", "અ\u0abeમ", "આમ"),
    ("ml", "അവൻ പാൽ", "അവന്\u200d പാല്\u200d"),
    ("ml", "ൻ്റെ", "ന്റെ"),
    ("ml", "കൗ ഔ", "കൌ ഒ\u0d57"),
    ("ta", "ஸ்ரீ கொ", "ஶ்ரீ க\u0bc6\u0bbe"),
    ("kn", "ಕೋ", "ಕ\u0cc6\u0cc2\u0cd5"),
    ("si", "කෝ", "ක\u0dd9\u0dcf\u0dca"),
    ("am", "ሰላም፡አለም።", "ሰላም አለም"),
    ("vi", "hòa thúy", "hoà thuý"),
    ("vi", "ti\u00eang", "ti\u00eang"),
    ("yo", "o\u0301\u0323", "ọ́"),
    ("ro", "ţară şi", "țară și"),
    ("hr", "ǆep", "džep"),
    ("nl", "ĳs", "ijs"),
    ("ka", "ᲡᲐᲥ", "საქ"),
    ("ko", "한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
]
# Different words: an error has to stay one.
DIFFERENT = [
    ("uk", "п'ять", "пять"),
    ("uz", "o\u02bbt", "ot"),
    ("haw", "pau", "pa\u02bbu"),
    ("tr", "Isparta", "isparta"),
    ("hi", "हमने", "हमन"),
    ("ja", "か", "が"),
    ("th", "มา", "มำ"),
    ("lo", "ນາ", "ນຳ"),
    ("ca", "cola", "colla"),
    ("en", "a b", "ab"),
    ("ko", "가 나", "가나"),
    ("zh", "hot dog", "hotdog"),
    ("ar", "كِتاب", "كَتاب"),
    ("ar", "علي", "على"),
    ("ps", "سړي", "سړی"),
    ("ug", "بىر", "بير"),
    ("fa", "ده", "دە"),
    ("ur", "بھی", "بہی"),
    ("he", "שׁלום", "שׂלום"),
    ("uz", "g\u02bboz", "goz"),
    ("az", "ilan", "ılan"),
    ("lo", "ແມ່", "ແມ້"),
    ("am", "ሰላም", "ሠላም"),
    ("bn", "ড়", "ড"),
    ("ml", "കൊ", "കോ"),
    ("vi", "hoàn", "hoán"),
    ("vi", "hòa", "hóa"),
    ("ro", "sa", "șa"),
    ("yo", "ọ", "o"),
    ("zh", "3倍", "4倍"),
]


@pytest.mark.parametrize(("language", "one", "other"), SAME)
def test_spellings_of_one_text_score_0(language, one, other):
    assert normalise(one, language) == normalise(other, language)
    assert normalise(normalise(one, language), language) == normalise(one, language)
    scores = score([one], [other], language)
    assert (scores.wer, scores.cer) == (0, 0)


@pytest.mark.parametrize(("language", "one", "other"), DIFFERENT)
def test_different_words_stay_different(language, one, other):
    assert normalise(one, language) != normalise(other, language)
    assert score([one], [other], language).cer > 0


@pytest.mark.parametrize(
    ("language", "form", "text", "right"),
    [
        ("en", {}, "  Don't STOP — “now”, 21! ", "Don't STOP — “now”, 21!"),
        ("en", {"case": "lower"}, "Don't STOP, İzmir", "don't stop, izmir"),
        ("tr", {"case": "lower"}, "IŞIK İyi", "ışık iyi"),
        ("el", {"case": "lower"}, "ΟΔΟΣ", "οδος"[:-1] + "ς"),
        ("en", {"punctuation": "remove"}, "“Don’t!” she said… (well-known; 3.5 %)", None),
        ("en", {"punctuation": "remove"}, "'quoted' dogs' at 10:30,and/or -5", None),
        ("uz", {"punctuation": "remove"}, "O'zbek, to'g' oʻ.", "O'zbek to'g' oʻ"),
        ("haw", {"punctuation": "remove"}, "ʻO 'ia, nō.", "ʻO 'ia nō"),
        ("he", {"punctuation": "remove"}, "צה״ל, ג׳ירפה.", "צה״ל ג׳ירפה"),
        ("hi", {"punctuation": "remove"}, "हमने देखा।", "हमने देखा"),
        ("zh", {"punctuation": "remove"}, "你好,世界。", "你好世界"),
        ("es", {"punctuation": "remove"}, "¿Qué? ¡No!", "Qué No"),
        ("en", {"digits": "spell"}, "21 cats, 5 %, in 1984 at 3.5, 1,000 or 007", None),
        ("en", {"digits": "spell"}, "555 1234, $5, 4th and 10 000", "555 1234, $5, 4th and 10 000"),
        ("hi", {"digits": "spell"}, "२१ लोग और 58", "इक्कीस लोग और अट्ठावन"),
        ("fr", {"digits": "spell"}, "1 chat, 2 chats", "1 chat, deux chats"),
        ("de", {"digits": "spell"}, "am 5. Mai um 7, Platz 3.", "am 5. Mai um sieben, Platz drei."),
        ("en", {"digits": "spell"}, "I have 5. You have 6.", "I have five. You have six."),
        ("tr", {"digits": "spell"}, "5'te 58 kişi", "5'te elli sekiz kişi"),
        ("th", {"digits": "spell"}, "๒๑", "ยี่สิบเอ็ด"),
        ("en", {"digits": "spell", "case": "lower", "punctuation": "remove"}, "Ten-21, 42.", None),
    ],
)
def test_texts_for_training_have_the_form_that_is_asked_for(language, form, text, right):
    others = {
        "“Don’t!” she said… (well-known; 3.5 %)": "Don’t she said well-known 3.5 %",
        "'quoted' dogs' at 10:30,and/or -5": "quoted dogs at 10:30 and or 5",
        "21 cats, 5 %, in 1984 at 3.5, 1,000 or 007": (
            "twenty-one cats, five %, in 1984 at 3.5, 1,000 or 007"
        ),
        "Ten-21, 42.": "ten-21 forty-two",
    }
    assert written(text, TextConfig.model_validate(form), language).text == (right or others[text])


def test_digits_that_stay_are_noted_and_languages_with_cases_are_refused():
    spell = TextConfig(digits="spell")
    assert written("5 and 3.5", spell, "en").remarks == (UNSPELLED,)
    assert written("5 and 6", spell, "en") == FormedText("five and six")
    assert written("5", TextConfig(), "en") == FormedText("5")
    with pytest.raises(UsageError, match="is not possible in ru, whose numbers"):
        build_spec({"language": "ru", "corpus": "c", "text": {"digits": "spell"}})
    engines = set(RbnfEngine.get_supported_languages())
    assert {*SPELLED} <= engines
