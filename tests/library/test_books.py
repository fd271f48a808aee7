"""The books of requests in a model's process: when an index is built, and who waits for it."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorajob.book import apart
from lorajob.book.apart import build_apart
from lorajob.book.index import TermIndex
from lorajob.book.joined import JoinedIndex
from lorajob.book.terms import Glossary, GlossaryError, decode_glossary, terms_of
from lorajob.job.jobdir import hash_file
from lorajob.serving import books
from lorajob.serving.books import BookShelf, OpenBook
from lorajob.serving.models import GlossaryFile
from tests.support.service import wait_for

LIMIT_SECONDS = 60.0


class Builder:
    """Builds indexes, but those with the term `slow` only when it is allowed to."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, glossary: Glossary, language: str) -> TermIndex:
        texts = [it.text for it in glossary.terms]
        if "slow" in texts:
            assert self.go_on.wait(LIMIT_SECONDS)
        self.built.append("|".join(texts))
        return TermIndex(glossary, language)

    def apart(self, source: Path | bytes, language: str) -> TermIndex:
        content = source if isinstance(source, bytes) else source.read_bytes()
        return self(decode_glossary(content), language)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    made = Builder()
    monkeypatch.setattr(books, "TermIndex", made)
    monkeypatch.setattr(books, "build_apart", made.apart)
    monkeypatch.setattr(books, "SMALL_BYTES", -1)
    for name in ("FIRST_SECONDS", "PATIENCE_SECONDS"):
        monkeypatch.setattr(books, name, 2 * LIMIT_SECONDS)
    return made


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let requests from now on wait for no index."""

    def shorten() -> None:
        for name in ("FIRST_SECONDS", "PATIENCE_SECONDS"):
            monkeypatch.setattr(books, name, 0.0)

    return shorten


def write(path: Path, *terms: str, name: str = "hi") -> GlossaryFile:
    path.write_text("".join(f"{it}\n" for it in terms), "utf-8")
    return GlossaryFile(name=name, path=path, sha256="+".join(terms), language="hi")


def opened(shelf: BookShelf, files: Sequence[GlossaryFile] = (), *terms: str) -> OpenBook | None:
    """The book that a request gets, as soon as it goes on."""
    found: queue.SimpleQueue[OpenBook | None] = queue.SimpleQueue()
    shelf.open(files, terms, "hi", found.put)
    book = found.get(timeout=LIMIT_SECONDS)
    assert found.empty()
    return book


def words(book: OpenBook | None) -> set[str]:
    if book is None or book.book.index is None:
        return set()
    near: Callable[..., Any] = book.book.index.near
    return {it.term.text for it in near("nairobbi zurichh slowe")}


def test_an_index_is_built_once_for_each_content(builder: Builder, tmp_path: Path) -> None:
    shelf = BookShelf()
    file, other = write(tmp_path / "a", "Nairobi"), write(tmp_path / "b", "Zurich", name="job")
    first = opened(shelf, [file], "Zurich")
    again = opened(shelf, [file], "Zurich")
    assert first is not None and again is not None and first.key == again.key
    assert words(first) == {"Nairobi", "Zurich"}
    assert words(opened(shelf, [file])) == {"Nairobi"}
    assert words(opened(shelf, [file, other])) == {"Nairobi", "Zurich"}
    assert sorted(builder.built) == ["Nairobi", "Zurich", "Zurich"]
    keys = {opened(shelf, it).key for it in ([file], [other], [file, other])}  # type: ignore[union-attr]
    assert len(keys) == 3 and opened(shelf) is None


def test_a_large_glossary_delays_no_request_without_it(
    builder: Builder, hurry: Callable[[], None], tmp_path: Path
) -> None:
    shelf = BookShelf()
    # This waits for no other glossary, whatever the limits are.
    shelf.open([write(tmp_path / "other", "slow", name="mr")], (), "hi", lambda _: None)
    assert words(opened(shelf, (), "Zurich")) == {"Zurich"}
    hurry()
    large = write(tmp_path / "large", "slow")
    # Its first request goes on without it, and others have their own terms at once.
    assert opened(shelf, [large]) is None
    assert words(opened(shelf, [large], "Zurich")) == {"Zurich"}
    builder.go_on.set()
    found: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
    index = shelf._files["slow", "hi"]
    index.add_done_callback(lambda _: found.put(words(opened(shelf, [large]))))
    assert found.get(timeout=LIMIT_SECONDS) == {"slow"}


def test_a_small_file_waits_for_no_large_one(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(books, "SMALL_BYTES", 10)
    shelf = BookShelf()
    large = write(tmp_path / "large", "slow", "another term", name="mr")
    shelf.open([large], (), "hi", lambda _: None)
    assert words(opened(shelf, [write(tmp_path / "small", "Zurich")])) == {"Zurich"}
    builder.go_on.set()


def test_a_short_list_waits_for_no_long_one(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "SHORT_BYTES", 10)
    shelf = BookShelf()
    shelf.open((), ("slow", "another term"), "hi", lambda _: None)
    assert words(opened(shelf, (), "Zurich")) == {"Zurich"}
    builder.go_on.set()


def test_terms_and_a_file_with_the_same_bytes_have_different_keys(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("#1\nZurich", "utf-8")
    file = GlossaryFile(name="hi", path=path, sha256=hash_file(path), language="hi")
    shelf = BookShelf()
    found = [opened(shelf, [file]), opened(shelf, (), "#1", "Zurich")]
    assert [None if it is None else len(it.book.index or ()) for it in found] == [1, 2]
    assert len({it.key for it in found if it is not None}) == 2


def test_a_changed_glossary_is_used_as_it_was_until_its_index_is_complete(
    builder: Builder, hurry: Callable[[], None], tmp_path: Path
) -> None:
    shelf = BookShelf()
    assert words(opened(shelf, [write(tmp_path / "1", "Nairobi")])) == {"Nairobi"}
    hurry()
    new = write(tmp_path / "2", "Nairobi", "slow")
    assert words(opened(shelf, [new])) == {"Nairobi"}
    builder.go_on.set()
    shelf._files[new.sha256, "hi"].result(LIMIT_SECONDS)
    assert words(opened(shelf, [new])) == {"Nairobi", "slow"}


def test_a_file_that_cannot_be_read_is_logged_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = BookShelf()
    hostile = write(tmp_path / "hostile", "a\x00b", "x" * 10_000)
    with caplog.at_level(logging.ERROR, "lorajob"):
        assert opened(shelf, [hostile]) is None
        assert opened(shelf, [hostile]) is None
        away = hostile.model_copy(update={"path": tmp_path / "away", "sha256": "away"})
        assert words(opened(shelf, [away], "Zurich")) == {"Zurich"}
    assert caplog.text.count("line 1: the control character U+0000") == 1
    assert "No such file" in caplog.text
    # Another try may find it.
    away.path.write_text("Nairobi\n", "utf-8")
    # The failed one is dropped after its waiters are told.
    wait_for(lambda: words(opened(shelf, [away])) == {"Nairobi"}, LIMIT_SECONDS)


def test_another_process_builds_the_same_index(tmp_path: Path) -> None:
    path = tmp_path / "terms"
    lines = ["Nairobi", "DGX Spark\tdee jee ex spark|डी जी एक्स स्पार्क", "😀 नमस्ते"]
    path.write_text("".join(f"{it}\n" for it in lines), "utf-8")
    there, here = build_apart(path, "hi"), TermIndex(decode_glossary(path.read_bytes()), "hi")
    for text in ("nairobbi dijieks spark", "a नमस्त b 😀 नमस्ते"):
        assert there.near(text) == here.near(text) and there.near(text)
        assert there.written(text) == here.written(text)
    path.write_text("one\na\x00b\n", "utf-8")
    with pytest.raises(GlossaryError, match=r"^line 2: the control character U\+0000"):
        build_apart(path, "hi")
    with pytest.raises(OSError, match="No such file"):
        build_apart(tmp_path / "away", "hi")


def test_a_large_file_is_indexed_elsewhere_and_here_if_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(books, "SMALL_BYTES", -1)
    building: list[Path] = []

    def build(path: Path, language: str) -> TermIndex:
        building.append(path)
        return build_apart(path, language)

    monkeypatch.setattr(books, "build_apart", build)
    files = [write(tmp_path / it, it, name=it) for it in ("Nairobi", "Zurich")]
    assert words(opened(BookShelf(), files[:1])) == {"Nairobi"} and building == [files[0].path]
    assert "indexed here" not in caplog.text
    monkeypatch.setattr(apart, "PYTHON", "false")
    assert words(opened(BookShelf(), files[1:])) == {"Zurich"}
    assert "the glossary of Zurich is indexed here: the process that builds its" in caplog.text


def test_a_long_list_of_terms_is_indexed_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Each begins as a comment would in a file.
    terms = [f"#{it} Nairobi\tnairobi {it}|{'x' * 90}|{'अ' * 80}" for it in range(1000)]
    here = TermIndex(terms_of(terms), "hi").near("nairobbi")
    shelf = BookShelf()
    with monkeypatch.context() as patched:
        patched.setattr(books, "TermIndex", lambda *given: pytest.fail("it was built here"))
        found = opened(shelf, (), *terms)
        assert found is not None and found.book.index is not None
        assert found.book.index.near("nairobbi") == here and len(found.book.index) == 1000
        # A builder that was killed is tried again with the next request.
        patched.setattr(apart, "PYTHON", script(tmp_path / "killed", "kill -9 $$"))
        assert opened(shelf, (), *terms[1:]) is None
        assert "the terms of a request are not used: signal 9 ended" in caplog.text
    again = opened(shelf, (), *terms[1:])
    assert again is not None and again.book.index is not None and len(again.book.index) == 999
    for number, (python, why) in enumerate(
        {"false": "the process that builds", "/nowhere": "no process could be started"}.items()
    ):
        monkeypatch.setattr(apart, "PYTHON", python)
        assert opened(shelf, (), *terms[2 + number :]) is not None
        assert f"the terms of a request are indexed here: {why}" in caplog.text


def script(path: Path, body: str) -> str:
    """A program that stands for Python."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return str(path)


def test_after_its_builder_was_killed_a_large_file_is_off_and_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(books, "SMALL_BYTES", -1)
    for name in ("FIRST_SECONDS", "PATIENCE_SECONDS"):
        monkeypatch.setattr(books, name, 2 * LIMIT_SECONDS)
    shelf = BookShelf()
    assert words(opened(shelf, [write(tmp_path / "a", "Nairobi")])) == {"Nairobi"}
    wait_for(lambda: shelf._latest, LIMIT_SECONDS)
    python = apart.PYTHON
    # It may have been killed because memory ran out.
    monkeypatch.setattr(apart, "PYTHON", script(tmp_path / "killed", "kill -9 $$"))
    monkeypatch.setattr(books, "TermIndex", lambda *given: pytest.fail("it was built here"))
    new = write(tmp_path / "b", "Zurich")
    other = write(tmp_path / "c", "Bern", name="job")
    for _ in range(2):
        # An older version is used meanwhile, if there is one.
        assert words(opened(shelf, [new])) == {"Nairobi"}
        assert opened(shelf, [other]) is None
    assert caplog.text.count("is not used for 5 min: signal 9 ended the process that") == 2
    monkeypatch.setattr(apart, "PYTHON", python)
    assert words(opened(shelf, [new])) == {"Nairobi"}
    later = time.monotonic() + books.RETRY_SECONDS
    monkeypatch.setattr(books, "time", SimpleNamespace(monotonic=lambda: later))
    assert words(opened(shelf, [new])) == {"Zurich"}


def test_a_builder_that_takes_too_long_or_writes_nonsense_has_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "terms"
    path.write_text("Nairobi\n", "utf-8")
    for number, said in enumerate(("", "nonsense", "PK\x03\x04 nonsense", "\x93NUMPY")):
        printed = script(tmp_path / f"{number}", f"printf '{said}'")
        monkeypatch.setattr(apart, "PYTHON", printed)
        with pytest.raises(apart.BuildError, match="wrote no tables"):
            build_apart(path, "hi")
    monkeypatch.setattr(apart, "PYTHON", script(tmp_path / "slow", "exec sleep 600"))
    monkeypatch.setattr(apart, "BUILD_SECONDS", 0.5)
    with pytest.raises(apart.BuildStoppedError, match="took over"):
        build_apart(path, "hi")


def test_unused_indexes_are_dropped_and_the_newest_stays(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "MOST_KEPT_TERMS", 3)
    shelf = BookShelf()
    files = [write(tmp_path / it, f"{it}one", f"{it}two", name=it) for it in ("a", "b", "c")]
    for file in files:
        assert opened(shelf, [file]) is not None
    newest = files[-1].sha256, "hi"
    # A request may go on before the others are dropped.
    wait_for(lambda: list(shelf._files) == [newest], LIMIT_SECONDS)
    wait_for(lambda: shelf._latest == {("c", "hi"): newest}, LIMIT_SECONDS)
    monkeypatch.setattr(books, "MOST_KEPT_LISTS", 2)
    for number in range(4):
        assert opened(shelf, (), f"Ort {number}") is not None
    assert len(shelf._lists) == 2


def test_joined_indexes_find_each_term_once_the_nearest_first() -> None:
    parts = [TermIndex(terms_of(it), "en") for it in (["Nairobi", "Zurich"], ["Nairobi", "Bern"])]
    joined = JoinedIndex(parts)
    found = joined.near("we flew from nairobbi to bern", 3)
    assert len(joined) == 4 and [it.term.text for it in found] == ["Nairobi", "Bern"]
    assert found == sorted(found, key=lambda it: -it.agreeing)
