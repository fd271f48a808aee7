"""Decoding with a glossary: what it may change, and that hostile terms change nothing."""

import json
import queue
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorajob.book import decode as book_decode
from lorajob.book.decode import (
    Book,
    BookReader,
    decode_with_book,
    needed_nats,
    tried_phones,
)
from lorajob.book.index import NearTerm, TermIndex
from lorajob.book.joined import JoinedIndex
from lorajob.book.terms import Glossary, GlossaryError, Term, read_glossary, terms_of
from lorajob.decoding import torch_engine
from lorajob.decoding.config import DecodeConfig, TokenLimits
from lorajob.decoding.fallback import Transcript
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.server.errors import api_error
from lorajob.serving.engine import Engine
from lorajob.serving.models import Answer, Request
from lorajob.serving.process import RequestFailed
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.whisper import ct2
from lorajob.whisper.base_check import LABEL_POSITIONS

ENGLISH = DecodeConfig(
    language="en", limits=TokenLimits(tokens=12), temperatures=(0.0,), no_speech=None
)
LIMIT_SECONDS = 60.0
HOSTILE = st.text(min_size=1, max_size=60)


class FixedIndex(TermIndex):
    """An index that finds one term for all but the first and last character of a text."""

    def __init__(self, term: str, agreeing: float) -> None:
        super().__init__(Glossary((Term(term),)), "en")
        self._term, self._agreeing = term, agreeing

    def near(self, text: str, most: int = 16, agreeing: float = 0.0) -> list[NearTerm]:
        if len(text) < 3 or self._agreeing < agreeing:
            return []
        return [NearTerm(Term(self._term), 1, len(text) - 1, 1.0, self._agreeing)]


@pytest.fixture(scope="module")
def decoder(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> FastDecoder:
    folder = ct2.convert(tiny_whisper, tmp_path_factory.mktemp("model") / "model", "float32")
    return FastDecoder(folder, ENGLISH)


@pytest.fixture(scope="module")
def sounds() -> list[Sound]:
    made = [np.random.default_rng(it).standard_normal(16_000 * (1 + it)) for it in range(3)]
    return [Sound.of((0.1 * it).astype(np.float32)) for it in made]


@pytest.mark.parametrize("changes", [{}, {"beam_size": 2}])
def test_a_term_takes_the_place_of_the_words_only(
    decoder: FastDecoder,
    sounds: list[Sound],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
) -> None:
    decoder = decoder.sharing(ENGLISH.model_copy(update=changes), decoder.prompt)
    plain = decoder.decode(sounds)
    assert any(len(it.text) > 2 for it in plain)
    monkeypatch.setattr(book_decode, "LEAST_CHANGE", -1e9)
    with_terms = decode_with_book(decoder, sounds, Book("en", FixedIndex("Okonkwo", 1e6)))
    for before, after in zip(plain, with_terms, strict=True):
        if len(before.text) < 3:
            assert after == before
            continue
        assert after.text == f"{before.text[0]}Okonkwo{before.text[-1]}"
        assert after.terms == ("Okonkwo",)
        assert after.tokens == len(decoder.labels.encode(after.text))


def test_a_term_that_the_audio_does_not_allow_is_left_out(
    decoder: FastDecoder, sounds: list[Sound], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_decode, "LEAST_CHANGE", 0.0)
    sure = FixedIndex("Okonkwo and the people who came to the market", 1e6)
    assert decode_with_book(decoder, sounds, Book("en", sure)) == decoder.decode(sounds)


def test_without_a_near_term_the_transcripts_are_the_plain_ones(
    decoder: FastDecoder, sounds: list[Sound]
) -> None:
    plain = decoder.decode(sounds)
    indexes = None, TermIndex(Glossary(), "en"), FixedIndex("Okonkwo", 0.0)
    for index in indexes:
        assert decode_with_book(decoder, sounds, Book("en", index)) == plain


def test_pytorch_decodes_without_the_book(monkeypatch: pytest.MonkeyPatch) -> None:
    class InTorch:
        engine = None

        def decode(self, sounds: Sequence[Sound], *given: object) -> list[Transcript]:
            return [Transcript("plain", 1, 0.0, 0.0, 0.0)]

    index = FixedIndex("Okonkwo", 1e6)
    (heard,) = decode_with_book(InTorch(), [], Book("en", index))  # type: ignore[arg-type]
    assert heard.text == "plain" and heard.terms == ()


@pytest.mark.parametrize(
    ("changes", "field"), [({"terms": ("Okonkwo",)}, "glossary"), ({"prompt": "the king"}, None)]
)
def test_where_pytorch_decodes_a_request_for_more_than_it_can_is_refused(
    decoder: FastDecoder,
    sounds: list[Sound],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changes: dict[str, Any],
    field: str | None,
) -> None:
    def without_libraries(*args: object, **options: object) -> None:
        raise RuntimeError("Library libcublas.so.12 is not found or cannot be loaded")

    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setattr(ctranslate2.models, "Whisper", without_libraries)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    load: Callable[..., Any] = torch_engine.load_engine
    monkeypatch.setattr(torch_engine, "load_engine", lambda *given: load(*given[:2], "cpu"))
    audio = tmp_path / "a.wav"
    soundfile.write(audio, sounds[0].read(), SAMPLE_RATE)
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    engine = Engine(FastDecoder(decoder.folder, ENGLISH), False, answers.put)
    engine.submit(Request(id=1, path=audio, **changes))
    failure = answers.get(timeout=LIMIT_SECONDS).failure
    assert failure is not None
    error = api_error(RequestFailed(failure))
    assert (error.status, error.param) == (400, field)
    assert "CTranslate2 cannot use the GPU" in error.message and "leave " in error.message


def test_more_terms_must_agree_on_more_phones_and_need_more_nats() -> None:
    for needed in (tried_phones, needed_nats):
        found = [needed(it) for it in (0, 20, 200, 5_000, 100_000)]
        assert found[0] == found[1] and found[1:] == sorted(set(found))


@pytest.mark.parametrize(
    ("terms", "agreeing", "nats", "plain", "unheard", "wins"),
    [
        (5_000, 6.0, -3.0, 0.0, -30.0, True),
        # The audio says less for a term that the model thinks of without audio.
        (5_000, 6.0, -3.0, 0.0, -20.0, False),
        (5_000, 6.0, -16.0, 0.0, -40.0, False),
        # The same is enough if the words heard are improbable too.
        (5_000, 6.0, -16.0, -1.9, -40.0, True),
        # But nothing makes every term likely.
        (5_000, 6.0, -90.0, -np.inf, -40.0, False),
        (5_000, 2.0, -3.0, 0.0, -30.0, False),
        # Of few terms fewer are near by chance.
        (20, 2.0, -3.0, 0.0, -20.0, True),
        (20, 2.0, -13.0, 0.0, -20.0, False),
        # However unlikely the term is without audio.
        (20, 2.0, -26.0, 0.0, -90.0, False),
    ],
)
def test_a_term_wins_by_what_the_audio_adds_to_its_probability(
    decoder: FastDecoder,
    monkeypatch: pytest.MonkeyPatch,
    terms: int,
    agreeing: float,
    nats: float,
    plain: float,
    unheard: float,
    wins: bool,
) -> None:
    monkeypatch.setattr(FixedIndex, "__len__", lambda index: terms)
    reader = BookReader(decoder, FixedIndex("Okon", agreeing))
    near = [NearTerm(Term("Okon"), 2, 6, 1.0, agreeing)]

    def score(encoded: np.ndarray, text: str) -> book_decode._Scored:
        found = nats if encoded.any() else unheard
        return book_decode._Scored(np.array([[0, len(text)]]), np.array([found]))

    monkeypatch.setattr(reader, "_score", score)
    said = Transcript("a oken b", 4, plain, 0.0, 1.0)
    found = reader.best(said, near, np.ones((1, 2, 3), np.float32))
    assert found.terms == (("Okon",) if wins else ())


def test_a_term_is_judged_without_the_term_right_behind_it(
    decoder: FastDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = BookReader(decoder, FixedIndex("Okon", 9.0))
    near = [
        NearTerm(Term("Okon"), 2, 6, 1.0, 9.0),
        NearTerm(Term("Beta"), 7, 11, 1.0, 9.0),
    ]

    def score(encoded: np.ndarray, text: str) -> book_decode._Scored:
        places = np.array(decoder.labels.encode_with_places(text)[1])
        beta = places[:, 1] > (text + " Beta").index("Beta")
        heard = np.where(beta, -30.0, 0.0)
        return book_decode._Scored(places, heard if encoded.any() else np.full(len(places), -9.0))

    monkeypatch.setattr(reader, "_score", score)
    said = Transcript("a oken bota", 5, 0.0, 0.0, 1.0)
    found = reader.best(said, near, np.ones((1, 2, 3), np.float32))
    assert (found.text, found.terms) == ("a Okon bota", ("Okon",))
    assert found.log_probability == 0.0


@pytest.mark.parametrize("words", [20, 120])
def test_terms_that_do_not_fit_one_text_are_tried_in_several(
    decoder: FastDecoder, sounds: list[Sound], monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    monkeypatch.setattr(book_decode, "LEAST_CHANGE", -1e9)
    tokens = decoder.labels.encode
    said = Transcript(" ".join(["മല"] * words), 3 * words, -1.0, 0.0, 1.0)
    terms = [f"തിരുവനന്തപുരം{it}" for it in range(20)]
    near = [NearTerm(Term(it), 3 * at, 3 * at + 2, 1.0, 1e6) for at, it in enumerate(terms)]
    assert len(tokens(" ".join(terms))) > LABEL_POSITIONS
    if words > 20:
        # What was heard is too long as well up to this term.
        assert len(tokens(said.text)) > LABEL_POSITIONS
        near.append(NearTerm(Term("കൊച്ചി"), 3 * words - 3, 3 * words - 1, 1.0, 1e6))
    reader = BookReader(decoder, FixedIndex("മല", 1e6))
    found = reader.best(said, near, reader.encoded(sounds[0]))
    assert found.terms == tuple(terms)
    assert found.text == " ".join([*terms, *["മല"] * (words - 20)])


def test_a_look_up_keeps_few_counts_of_a_text_without_spaces() -> None:
    terms = [chr(0x4E00 + it) + chr(0x5E00 + it // 3) for it in range(4_000)]
    index = TermIndex(terms_of(terms), "zh")
    text = "".join(chr(0x4E00 + 37 * it) for it in range(150))
    index.near(text[:10])  # loads the tables of sounds
    tracemalloc.start()
    try:
        index.near(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A byte for each of the 678 parts of the text and each term would be 2.7 MB more.
    assert peak < 3_800_000


def test_few_right_phones_are_nearer_than_more_with_many_wrong_ones() -> None:
    # Seven of ten phones agree with the long term, and all five with the short one.
    index = TermIndex(terms_of(["ठाकुर", "फाकुरगेवादीपन"]), "hi")
    found = index.near("वए त थाकुर गेवारा दिया")
    assert found[0].term.text == "ठाकुर" and found[0].agreeing == 5.0


def test_a_joined_index_leaves_words_that_are_a_term_of_any_part() -> None:
    one, other = (TermIndex(Glossary((Term(it),)), "en") for it in ("Lenovo", "Lenova"))
    joined = JoinedIndex([one, other])
    assert joined.near("a Lenovo box") == []
    assert {it.term.text for it in joined.near("a lenowo box")} == {"Lenovo", "Lenova"}


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(HOSTILE, max_size=8), heard=HOSTILE)
def test_any_term_and_any_text_are_looked_up(texts: list[str], heard: str) -> None:
    index = TermIndex(Glossary(tuple(map(Term, dict.fromkeys(texts)))), "en")
    for it in index.near(heard):
        assert 0 <= it.start < it.end <= len(heard)
        assert it.term.text in texts and 0 < it.similarity <= 1


@settings(max_examples=30, deadline=None)
@given(lines=st.lists(HOSTILE, max_size=8))
def test_any_terms_are_read_as_written_or_named_as_wrong(lines: list[str]) -> None:
    read: Callable[[], Glossary]
    for read in (lambda: terms_of(lines), lambda: read_glossary("\n".join(lines))):
        try:
            found = read()
        except GlossaryError as error:
            assert "\n" not in str(error) and len(str(error)) < 200
        else:
            assert read_glossary(found.text()) == found


def test_terms_of_every_kind_are_looked_up_together() -> None:
    kinds = [
        "(.*)+$",
        "a" * 10_000,
        "\u0301" * 500,
        "שלום עולם",
        "😀" * 50,
        "\x00\x1b[31m",
        "國" * 900,
    ]
    alike = [f"prefixprefixprefix{number}" for number in range(3_000)]
    index = TermIndex(Glossary(tuple(map(Term, [*kinds, *alike, "Okonkwo"]))), "en")
    text = "he met okonkvo at prefixprefixprefix of (.*)+ " + json.dumps(kinds)
    assert "Okonkwo" in [it.term.text for it in index.near(text, 400)]
