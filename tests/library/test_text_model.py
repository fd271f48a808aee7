"""Models of text: n-grams of characters, counted in bounded memory, and the scores they give."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorajob.decoding.text_counts import build
from lorajob.decoding.text_model import LanguageModel, as_codes
from lorajob.errors import FilesError, ModelError, UsageError
from lorajob.speech.text_file import lines_of_file

HINDI = [
    "वह थोड़े समय तक चुप रहा",
    "मन्दिरों का वास्तुशिल्प निकट है",
    "वह घर तक चुप रहा",
    "यह मन्दिरों का समय है",
]
THAI = ["ฉันไปโรงเรียน", "ฉันไปตลาด", "เขาไปโรงเรียน"]


def probability(model: LanguageModel, before: str, after: str) -> float:
    """Of the last character of `before + after` in that context."""
    codes, starts = as_codes([before + after])
    return float(model._probabilities(codes, starts)[len(before) + 1])


@pytest.mark.parametrize("before", ["", "वह ", "मन्दिरों का ", "क्ष", "zzz"])
def test_the_probabilities_of_all_next_characters_sum_to_one(before: str) -> None:
    model = build(HINDI, "hi")
    alphabet = sorted(set("".join(HINDI)))
    total = sum(probability(model, before, char) for char in alphabet)
    codes, starts = as_codes([before])
    total += float(model._probabilities(codes, starts)[-1])
    # The rest is for characters that the texts lack.
    assert 0.99 - 1e-6 <= total < 1


@pytest.mark.parametrize(("lines", "language"), [(HINDI, "hi"), (THAI, "th")])
def test_a_sentence_of_the_text_is_likelier_than_its_characters_in_another_order(
    lines: list[str], language: str
) -> None:
    model = build(lines, language)
    said = lines[0]
    assert model.score(said) > model.score(said[::-1]) + 10
    assert model.score(said) > model.score(said + said[-3:])
    assert model.score(f"{said}!") == model.score(said)
    assert model.scores([said, lines[1]]) == [model.score(said), model.score(lines[1])]
    assert model.scores([]) == []


def test_the_parts_in_which_a_text_is_read_do_not_change_the_model(tmp_path: Path) -> None:
    for name, part in (("one", 1_000_000), ("many", 30)):
        build(HINDI, "hi", part=part).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()
    loaded = LanguageModel.load(tmp_path / "one")
    assert loaded.language == "hi"
    assert loaded.scores(HINDI) == build(HINDI, "hi").scores(HINDI)


def test_a_long_text_is_pruned_to_the_most_ngrams_and_still_tells_sentences_apart() -> None:
    lines = [f"{word} {other}" for word in HINDI for other in HINDI for _ in range(3)]
    model = build(lines, "hi", most=60, part=100)
    assert all(len(level.keys) <= 60 for level in model.levels)
    assert model.score(HINDI[0]) > model.score(HINDI[0][::-1])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text_model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"text_model\.safetensors: missing or damaged"):
        LanguageModel.load(path)
    with pytest.raises(ModelError, match="missing or damaged"):
        LanguageModel.load(tmp_path / "absent")


def test_a_text_without_words_is_an_error() -> None:
    with pytest.raises(UsageError, match="no words"):
        build(["", "...", "\x00\x1b["], "hi")


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(), max_size=5), st.text())
def test_any_text_has_a_finite_score(lines: list[str], asked: str) -> None:
    model = build([*lines, "x" * 5000, "a b " * 1000, "\u0301\u200d\U0001f600 \x01\x02 ok"], "en")
    assert math.isfinite(model.score(asked))
    assert model.score(asked) < 0
    assert all(np.isfinite(level.probability).all() for level in model.levels)


def test_lines_of_plain_and_packed_files_are_the_same(tmp_path: Path) -> None:
    data = "\ufeffपहली पंक्ति\r\nदूसरी\n\nबिना अंत".encode()
    plain, packed = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    assert list(lines_of_file(plain)) == ["पहली पंक्ति", "दूसरी", "", "बिना अंत"]
    assert list(lines_of_file(packed)) == list(lines_of_file(plain))
    long = "न" * 700_001
    plain.write_text(f"{long}\n{long}", "utf-8")
    assert "".join(lines_of_file(plain)) == long * 2
    packed.write_bytes(gzip.compress(data * 1000)[:-20])
    with pytest.raises(FilesError, match=r"a\.txt\.gz: damaged after line"):
        list(lines_of_file(packed))
    plain.write_bytes("ठीक\n".encode() + "ठीक".encode("utf-16"))
    with pytest.raises(FilesError, match=r"a\.txt: line 2 is not UTF-8"):
        list(lines_of_file(plain))
