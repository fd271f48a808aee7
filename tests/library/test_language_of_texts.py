"""Whether texts are in the language of the job, where several share a script."""

from collections.abc import Sequence

import pytest

from lorajob.checking.language import other_language
from lorajob.checking.table import MeasuredClip, open_table
from lorajob.checking.texts import measure_text
from lorajob.languages import find_language

MARATHI = (
    "आम्ही काल शाळेत गेलो होतो आणि तिथे खूप मुले होती",
    "ती खूप सुंदर आहे आणि त्यांनी मला सांगितले की उद्या पाऊस पडणार आहे",
    "तुझ्या घरी किती माणसे राहतात ते मला माहीत नाही",
    "मी रोज सकाळी लवकर उठतो आणि चहा पितो",
)
UKRAINIAN = ("ми вчора ходили до школи і він сказав мені що завтра буде дощ",)
RUSSIAN = ("мы вчера ходили в школу и он сказал мне что завтра будет дождь",)
PORTUGUESE = ("ontem fomos à escola e ele disse-me que amanhã não vai chover",)
CROATIAN = ("jučer smo išli u školu i on mi je rekao da će sutra padati kiša",)


def warned(texts: Sequence[str], lang: str) -> list[tuple[str, str, int, str]]:
    """The findings about 60 clips for training and 20 for testing."""
    language = find_language(lang)
    with open_table() as table:
        for number in range(80):
            text = texts[number % len(texts)]
            target = "test" if number % 4 == 0 else "train"
            measures = measure_text(text, language)
            table.add(MeasuredClip(f"{number}.wav", target, target, "", text, measures, 1))
        table.finish()
        found = list(other_language(table, language))
    return [(it.level, it.says, it.count, it.examples[0].text) for it in found]


@pytest.mark.parametrize(
    ("texts", "lang", "name"),
    [
        (MARATHI, "hi", "Marathi"),
        (UKRAINIAN, "ru", "Ukrainian"),
        (RUSSIAN, "uk", "Russian"),
        (PORTUGUESE, "es", "Portuguese"),
    ],
)
def test_texts_in_another_language_of_one_script_are_a_warning(texts, lang, name):
    says = "clips for {} whose texts look like {}, not {}"
    language = find_language(lang).name
    assert warned(texts, lang) == [
        ("warning", says.format("training", name, language), 60, texts[1 % len(texts)]),
        ("warning", says.format("testing", name, language), 20, texts[0]),
    ]


@pytest.mark.parametrize(
    ("texts", "lang"),
    [
        (MARATHI, "mr"),
        (UKRAINIAN, "uk"),
        (PORTUGUESE, "pt"),
        # Texts hardly tell these apart, or the package does not know the language.
        (CROATIAN, "sr"),
        (PORTUGUESE, "haw"),
        # Too short to tell.
        (["não"], "es"),
        ([""], "es"),
    ],
)
def test_nothing_is_said_that_texts_do_not_show(texts, lang):
    assert warned(texts, lang) == []
