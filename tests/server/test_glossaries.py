"""Glossaries of requests, languages and models in `lorajob serve`, with a model that is a fake."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorajob.book.terms import read_glossary
from lorajob.server import glossaries as server_glossaries
from lorajob.server.glossaries import GlossaryShelf
from lorajob.serving.models import GlossaryFile, Request
from lorajob.storage.store import StoreError
from lorajob.tasks.glossaries import FOLDER, GlossaryFiles
from lorajob.worker.settings import Settings
from tests.support.served import FILE, Process, serving


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, artifacts=tmp_path / "jobs")


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def client(
    settings: Settings, process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    monkeypatch.setattr(server_glossaries, "REREAD_SECONDS", 0.0)
    monkeypatch.setattr(server_glossaries, "NEXT_SECONDS", 120.0)
    monkeypatch.setattr(server_glossaries, "FIRST_SECONDS", 120.0)
    folder = tmp_path / "uploads"
    folder.mkdir()
    shelf = GlossaryShelf(settings, folder)
    with serving(folder, process, glossaries=shelf) as client:
        yield client
    shelf.close()


def ask(client: TestClient, task: str = "transcriptions", **fields: Any) -> Any:
    data = {"model": "hi"} | fields
    return client.post(f"/v1/audio/{task}", files=FILE, data=data)


def refused(answer: Any) -> str:
    error = answer.json()["error"]
    assert answer.status_code == 400 and set(error) == {"message", "type", "param", "code"}
    assert error["param"] == "glossary"
    return str(error["message"])


def texts(request: Request) -> list[str]:
    return [it.path.read_text("utf-8") for it in request.glossaries]


@pytest.mark.parametrize(
    "fields",
    [
        {"glossary[]": ["Zürich", "DGX Spark\tdee jee"]},  # as OpenAI's client sends a list
        {"glossary": ["Zürich", "DGX Spark\tdee jee"]},
        {"glossary": "Zürich\r\n\r\nDGX Spark\tdee jee\n"},
    ],
)
def test_a_request_brings_terms_as_a_list_or_as_lines(
    client: TestClient, process: Process, fields: dict[str, Any]
) -> None:
    assert ask(client, **fields).json()["text"] == "कखग"
    assert process.asked[-1].terms == ("Zürich", "DGX Spark\tdee jee")


def test_wrong_terms_are_refused_in_one_line(client: TestClient, process: Process) -> None:
    many = [f"Ort {it}" for it in range(1001)]
    lines = {
        "term 2: the control character U+0007; remove it": ["Bern", "a\7b"],
        "term 1: 'ab ab": "ab " * 100,
        "term 1: '!!' has no letter and no digit": "!!",
        "A request has at most 1,000 terms; `lorajob glossary add`": many,
    }
    for line, given in lines.items():
        said = refused(ask(client, glossary=given))
        assert line.split("'")[0] in said and "\n" not in said
        assert said in ask(client, glossary=given, stream="true").text
    assert "at most 1,000 terms" in refused(ask(client, glossary="\n".join(many)))
    assert "at most 1,000 terms" in refused(ask(client, glossary=["a"] * 2000))
    assert process.asked == []
    assert ask(client, glossary=many[:1000]).status_code == 200


def test_a_translation_has_no_glossary(
    client: TestClient, process: Process, settings: Settings
) -> None:
    GlossaryFiles(settings).add("hi", read_glossary("Nairobi"))
    assert ask(client, "translations", glossary="Bern").json()["error"]["param"] == "glossary"
    ask(client, "translations")
    assert process.asked[-1].glossaries == () == process.asked[-1].terms


def test_a_changed_glossary_counts_without_a_restart(
    client: TestClient, process: Process, settings: Settings, tmp_path: Path
) -> None:
    kept = GlossaryFiles(settings)
    kept.add("mr", read_glossary("Pune"))
    ask(client)
    assert process.asked[-1].glossaries == ()
    seen = set()
    for number in range(6):
        kept.add("hi", read_glossary(f"Ort {number}"))
        ask(client, glossary="Bern")
        (found,) = process.asked[-1].glossaries
        assert (found.name, found.language) == ("hi", "hi")
        assert texts(process.asked[-1]) == ["".join(f"Ort {it}\n" for it in range(number + 1))]
        assert process.asked[-1].terms == ("Bern",)
        seen.add(found.sha256)
    ask(client)
    assert len(seen) == 6 and process.asked[-1].glossaries == (found,)
    assert len(list((tmp_path / "uploads").glob("glossary-*"))) == server_glossaries.KEPT
    ask(client, use_glossary="false", glossary="Bern")
    assert process.asked[-1].glossaries == () and process.asked[-1].terms == ("Bern",)
    kept.remove_all("hi")
    ask(client)
    assert process.asked[-1].glossaries == ()


def test_a_damaged_glossary_is_logged_once_and_the_language_is_served(
    client: TestClient, process: Process, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    path = settings.jobs / FOLDER / "hi.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff" * 1000)
    with caplog.at_level(logging.ERROR, "lorajob"):
        for _ in range(3):
            assert ask(client).status_code == 200
    assert caplog.text.count("the glossary of hi is left out") == 1
    assert "is not UTF-8" in caplog.text
    GlossaryFiles(settings).remove_all("hi")
    GlossaryFiles(settings).add("hi", read_glossary("Nairobi"))
    ask(client)
    assert texts(process.asked[-1]) == ["Nairobi\n"]


def test_glossaries_that_were_read_are_used_while_their_store_is_away(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_glossaries, "NEXT_SECONDS", 120.0)
    monkeypatch.setattr(server_glossaries, "FIRST_SECONDS", 120.0)
    for name in ("hi", "zh-TW"):
        GlossaryFiles(settings).add(name, read_glossary("Nairobi"))
    names, listed = GlossaryFiles.names, 0

    def counted(files: GlossaryFiles) -> list[str]:
        nonlocal listed
        listed += 1
        return names(files)

    def away(*given: object) -> str:
        raise StoreError("the store is away")

    async def find() -> list[tuple[GlossaryFile, ...]]:
        """What requests without a language find: twice in a moment, and without the store."""
        shelf = GlossaryShelf(settings, tmp_path)
        monkeypatch.setattr(GlossaryFiles, "names", counted)
        monkeypatch.setattr(server_glossaries, "REREAD_SECONDS", 1e9)
        try:
            found = [await shelf.find(None, "base") for _ in range(2)]
            monkeypatch.setattr(server_glossaries, "REREAD_SECONDS", 0.0)
            monkeypatch.setattr(GlossaryFiles, "names", away)
            monkeypatch.setattr(GlossaryFiles, "version", away)
            return [*found, await shelf.find(None, "base")]
        finally:
            shelf.close()

    first, *others = asyncio.run(find())
    assert [(it.name, it.language) for it in first] == [("hi", "hi"), ("zh-TW", "zh")]
    assert others == [first, first] and listed == 1


def test_verbose_json_names_the_terms_in_the_text(client: TestClient, process: Process) -> None:
    assert "glossary_terms" not in ask(client, response_format="verbose_json").json()
    process.terms = ["कख", "ग", "कख"]
    found = ask(client, response_format="verbose_json").json()
    assert found["glossary_terms"] == ["कख", "ग"]
    assert "glossary_terms" not in ask(client).json()
