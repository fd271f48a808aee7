"""Glossaries: their files, and the index that finds terms by sound and spelling."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lorajob.book import grams
from lorajob.book import index as book_index
from lorajob.book import terms as book_terms
from lorajob.book.index import COMPARED, NearTerm, TermIndex, spans
from lorajob.book.keys import Key
from lorajob.book.tables import Tables
from lorajob.book.terms import (
    Glossary,
    GlossaryError,
    Term,
    merge_glossaries,
    read_glossary,
    terms_of,
)
from lorajob.cli.glossary import read_terms
from lorajob.errors import UsageError

WORDS = "Ελληνικά Кириллица שלום العربية हिन्दी മലയാളം ไทย 漢字仮名 한국어 ქართული አማርኛ"
SCRIPTS = WORDS.split()


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


def test_invisible_characters_make_no_other_term_and_joiners_stay() -> None:
    # Such as of two files with a mark at their start, one behind the other.
    lines = [
        "Büro",
        "\ufeff# a comment",
        "\u200b",
        "\ufeffBüro",
        "Bü\u00adro",
        "\u200fBüro\t\u200bbeero",
        "क्\u200dष",
    ]
    read = read_glossary("\n".join(lines))
    assert read.terms == (Term("Büro", ("beero",)), Term("क्\u200dष"))
    assert terms_of(["\u200bBüro", "\ufeff#1", "\u200b"]).terms == (Term("Büro"), Term("#1"))


def test_any_line_ending_ends_a_line() -> None:
    assert read_glossary("one\rtwo\r\nthree\n").terms == terms_of(["one", "two", "three"]).terms


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "has no terms; give a term a line"),
        (b"# a comment\n#metoo\n", "has no terms; give a term a line"),
        (b"one\r\ntwo\rthre\xf6\n", "line 3 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_file_without_terms_and_other_bytes_are_one_line(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "terms.txt"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: .*{words}"):
        read_terms(str(path))


def test_a_file_that_fails_while_it_is_read_is_one_line() -> None:
    # Its first page is never mapped.
    with pytest.raises(UsageError, match=r"^FILE: '/proc/self/mem' cannot be read \(.+\); give a"):
        read_terms("/proc/self/mem")


def test_merged_glossaries_keep_every_way_to_sound() -> None:
    one, two = Glossary((Term("DGX", ("a",)),)), Glossary((Term("DGX", ("b",)), Term("x")))
    assert merge_glossaries(one, two).terms == (Term("DGX", ("a", "b")), Term("x"))


def test_more_than_a_glossary_may_hold_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    eight = Glossary((Term("DGX", tuple("abcdefgh")),))
    assert merge_glossaries(eight, Glossary((Term("DGX", ("h",)),))) == eight
    with pytest.raises(GlossaryError, match="9 ways to sound for 'DGX'; at most 8 are allowed"):
        merge_glossaries(eight, Glossary((Term("DGX", ("i",)),)))
    monkeypatch.setattr(book_terms, "MOST_CHARACTERS", 11)
    assert merge_glossaries(eight) == eight
    with pytest.raises(GlossaryError, match="12 characters in all terms and sounds; at most 11 "):
        read_glossary("DGX\ta|b|c|d|e|f|g|h\nx")


def test_a_wrong_line_among_100_000_is_named_and_a_line_of_any_length_takes_no_time() -> None:
    lines = [f"{SCRIPTS[it % len(SCRIPTS)]} {it}" for it in range(100_000)]
    assert len(read_glossary("\n".join(lines)).terms) == 100_000
    with pytest.raises(GlossaryError) as raised:
        read_glossary("\n".join([*lines[:-1], "x" * 10_000]))
    assert str(raised.value).startswith("line 100000: xxx")
    began = time.thread_time()
    with pytest.raises(GlossaryError, match=r"line 1: .* has 20,000,000 characters"):
        read_glossary("\u0939\u0947" * 10_000_000)
    assert time.thread_time() - began < 1


def _hostile_terms() -> Glossary:
    """20,000 terms that `read_glossary` allows: alike, long, acronyms, and of many scripts."""
    alike = [f"international{it}" for it in range(12_000)]
    long = [f"{'ab' * 45}{it}" for it in range(1_000)]
    acronyms = [f"ABC {it}" for it in range(1_000)]
    scripts = [f"{SCRIPTS[it % len(SCRIPTS)]} {it}" for it in range(5_999)]
    return terms_of([*alike, *long, *acronyms, *scripts, "Okonkwo"])


def test_a_look_up_in_a_hostile_glossary_compares_few_terms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []
    similarity = book_index._similarity

    def counted(key: Key, tables: Tables, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        compared.extend(rows.tolist())
        return similarity(key, tables, rows)

    monkeypatch.setattr(book_index, "_similarity", counted)
    glossary = _hostile_terms()
    text = f"okonkvo and internationale {' '.join(SCRIPTS)} {'ab' * 40}{' ababab' * 20}"

    def look_up(terms: tuple[Term, ...]) -> tuple[float, list[NearTerm]]:
        """CPU seconds of the fastest of three look-ups."""
        index = TermIndex(Glossary(terms), "en")
        seconds = []
        for _ in range(3):
            compared.clear()
            began = time.thread_time()
            found = index.near(text, 1_000)
            seconds.append(time.thread_time() - began)
        return min(seconds), found

    small, _ = look_up(glossary.terms[-20:])
    large, found = look_up(glossary.terms)
    assert "Okonkwo" in {it.term.text for it in found}
    different = {text[start:end] for start, end in spans(text)}
    assert len(compared) <= COMPARED * len(different) < COMPARED * len(spans(text))
    # It is 3 times as much, and would be 1,000 times without the index.
    assert large < 50 * small + 0.5


def test_the_parts_of_an_index_do_not_change_what_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    glossary = terms_of([*SCRIPTS, "Okonkwo", "Zanzibar", "DGX Spark", "..a", "international"])
    text = f"okonkvo of sansibar internationally dgx sparc {' '.join(SCRIPTS)}x"
    whole = TermIndex(glossary, "en").near(text)
    monkeypatch.setattr(grams, "PART_KEYS", 2)
    monkeypatch.setattr(grams, "PART_ROWS", 1)
    assert TermIndex(glossary, "en").near(text) == whole
    assert {it.term.text for it in whole} >= {"Okonkwo", "Zanzibar", "DGX Spark", "international"}


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
