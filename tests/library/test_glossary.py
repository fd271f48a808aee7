"""Glossaries: their files, and the index that finds terms by sound and spelling."""

import pytest

from lorajob.book.index import TermIndex
from lorajob.book.terms import Glossary, GlossaryError, Term, merge_glossaries, read_glossary


def test_a_file_has_a_term_a_line_and_how_it_sounds_behind_a_tab() -> None:
    lines = [
        "\ufeff# people",
        "Zaira  Okonkwo",
        "",
        "DGX\tडीजीएक्स|dee jee ex",
        "Zaira Okonkwo",
        "\\#1",
    ]
    read = read_glossary("\r\n".join(lines))
    assert read.terms == (
        Term("Zaira Okonkwo"),
        Term("DGX", ("डीजीएक्स", "dee jee ex")),
        Term("#1"),
    )
    assert read_glossary(read.text()) == read


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a\x07b", "line 2: the control character U+0007; remove it"),
        ("a" * 101, "has 101 characters; a term has at most 100"),
        ("😀", "has no letter and no digit"),
        ("a\tb\tc", "2 tabs"),
        ("\u202eabc", "U+202E"),
    ],
)
def test_a_line_that_is_no_term_is_named(line: str, words: str) -> None:
    with pytest.raises(GlossaryError) as raised:
        read_glossary(f"right\n{line}\n")
    assert words in str(raised.value)
    assert str(raised.value).startswith("line 2: ")


def test_merged_glossaries_keep_every_way_to_sound() -> None:
    one, two = Glossary((Term("DGX", ("a",)),)), Glossary((Term("DGX", ("b",)), Term("x")))
    assert merge_glossaries(one, two).terms == (Term("DGX", ("a", "b")), Term("x"))


@pytest.mark.parametrize(
    ("term", "language", "text", "words"),
    [
        ("Lenovo", "hi", "मैंने लेनोवो, खरीदा", "लेनोवो"),
        ("लेनोवो", "en", "I bought a lenovo.", "lenovo"),
        ("Microsoft", "ml", "അവൻ മൈക്രോസോഫ്റ്റ് വാങ്ങി", "മൈക്രോസോഫ്റ്റ്"),
        ("DGX Spark", "hi", "वह डीजीएक्स स्पार्क है", "डीजीएक्स स्पार्क"),
        ("Okonkwo", "en", "he met okon quo today", "okon quo"),
        ("トヨタ", "ja", "昨日とよたに行った", "とよた"),
    ],
)
def test_a_term_is_found_by_its_sound(term: str, language: str, text: str, words: str) -> None:
    wrong = tuple(Term(it) for it in ("Zanzibar", "कुरुक्षेत्र", "തൃശ്ശൂർ", "大阪城公園"))
    index = TermIndex(Glossary((*wrong, Term(term))), language)
    near = [it for it in index.near(text) if it.term.text == term]
    assert words in [text[it.start : it.end] for it in near]


def test_words_that_are_a_term_stay() -> None:
    index = TermIndex(Glossary((Term("Lenovo"), Term("Lenova"))), "en")
    assert index.near("a Lenovo box") == []
    assert TermIndex(Glossary(), "en").near("a Lenovo box") == []
