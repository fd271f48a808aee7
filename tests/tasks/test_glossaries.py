"""The glossaries of languages and jobs: what is kept, in a folder and in a store."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lorajob.book.terms import Glossary, GlossaryError, Term, read_glossary
from lorajob.errors import JobNotFoundError, StageError, UsageError
from lorajob.tasks.glossaries import FOLDER, GlossaryFiles
from lorajob.worker.settings import Settings
from tests.support.command import succeeded_record

JOB = "hi-1a2b3c4d"
TERMS = read_glossary("Zürich\nDGX Spark\tडी जी एक्स\n")


@pytest.fixture(params=["folder", "store"])
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    stored = f"memory://{tmp_path.name}/jobs" if request.param == "store" else tmp_path / "jobs"
    return Settings(home=tmp_path, artifacts=stored)


def texts(glossary: Glossary) -> list[str]:
    return [it.text for it in glossary.terms]


def test_terms_are_added_listed_and_removed(settings: Settings) -> None:
    kept = GlossaryFiles(settings)
    assert kept.listed() == [] and kept.read("hi") == Glossary() and kept.version("hi") is None
    made = kept.add("Hindi", TERMS)
    assert (made.name, made.added, made.changed, made.terms) == ("hi", 2, 0, 2)
    assert kept.read("hi") == TERMS
    more = kept.add("hi", read_glossary("Zürich\ttsurich\nNairobi"))
    assert (more.added, more.changed, more.terms) == (1, 1, 3)
    assert kept.read("hi").terms[0] == Term("Zürich", ("tsurich",))
    (row,) = kept.listed()
    assert (row.name, row.of, row.terms) == ("hi", "language", 3)
    gone = kept.remove("hi", ["DGX  Spark", "Zu\u0308rich"])  # other spaces, another form of ü
    assert (gone.removed, gone.terms) == (2, 1)
    assert texts(kept.read("hi")) == ["Nairobi"]
    kept.remove("hi", ["Nairobi"])
    assert kept.listed() == [] and kept.version("hi") is None


def test_every_language_is_listed_and_other_files_are_not(settings: Settings) -> None:
    kept = GlossaryFiles(settings)
    for name in ("zh-TW", "rm-sursilv", "hi"):
        kept.add(name, TERMS)
    for name in ("notes", "hin", "hindi", ".hi"):
        kept._location.upload(_file(settings.home, b"x\n"), f"{FOLDER}/{name}.txt")
    assert kept.names() == ["hi", "rm-sursilv", "zh-TW"]
    assert [it.of for it in kept.listed()] == ["language"] * 3


def test_a_file_that_is_too_large_is_not_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = GlossaryFiles(settings)
    kept.add("hi", TERMS)
    monkeypatch.setattr("lorajob.tasks.glossaries.MOST_BYTES", 5)

    def read(*given: object) -> bytes:
        raise AssertionError(given)

    monkeypatch.setattr(type(kept._location), "read", read)
    with pytest.raises(
        StageError, match=r"hi\.txt in LORAJOB_ARTIFACTS has over .* remove hi --all"
    ):
        kept.content("hi")


def test_every_change_has_another_version(settings: Settings) -> None:
    kept = GlossaryFiles(settings)
    seen = []
    for step in ("Aachen", "Bochum", "Bergen"):
        kept.add("de", read_glossary(step))
        seen.append(kept.version("de"))
    kept.add("de", read_glossary("Aachen"))
    assert len(set(seen)) == 3 and kept.version("de") == seen[-1]


def test_a_term_that_is_missing_is_named_and_none_is_removed(settings: Settings) -> None:
    kept = GlossaryFiles(settings)
    kept.add("hi", TERMS)
    with pytest.raises(UsageError, match=r"hi: 'Basel' is not in the glossary.*glossary list hi"):
        kept.remove("hi", ["Zürich", "Basel"])
    assert kept.read("hi") == TERMS
    assert kept.remove_all("hi").removed == 2
    with pytest.raises(UsageError, match="hi: has no glossary"):
        kept.remove_all("hi")


def test_too_many_terms_leave_what_is_there(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = GlossaryFiles(settings)
    kept.add("hi", TERMS)
    monkeypatch.setattr("lorajob.book.terms.MOST_TERMS", 3)
    with pytest.raises(GlossaryError, match=r"hi: would have 4 terms; at most 3 .*nothing was"):
        kept.add("hi", read_glossary("Basel\nBern"))
    assert kept.read("hi") == TERMS


@pytest.mark.parametrize("name", ["xx", "", "../jobs", "hi/..", "HI-1A2B", "klingon", ".."])
def test_a_name_is_a_language_or_a_job(settings: Settings, name: str) -> None:
    kept = GlossaryFiles(settings)
    calls: list[Callable[[], object]] = [
        lambda: kept.read(name),
        lambda: kept.add(name, TERMS),
        lambda: kept.remove_all(name),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="is neither a language nor a job"):
            call()


def test_a_job_must_exist_and_takes_its_glossary_along(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, artifacts=tmp_path / "jobs")
    kept = GlossaryFiles(settings)
    with pytest.raises(JobNotFoundError, match=JOB):
        kept.add(JOB, TERMS)
    record = succeeded_record(settings.jobs, JOB)
    folder = settings.jobs / JOB
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(record.model_dump_json())
    kept.add(JOB, TERMS)
    assert [(it.name, it.of) for it in kept.listed()] == [(JOB, "job")]
    kept.forget_job(JOB)
    kept.forget_job(JOB)
    assert kept.names() == []


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a\x00b\n", b"long" * 500])
def test_a_damaged_file_is_named_and_can_be_removed(settings: Settings, data: bytes) -> None:
    kept = GlossaryFiles(settings)
    kept.add("hi", TERMS)
    kept._location.upload(_file(settings.home, data), f"{FOLDER}/hi.txt")
    with pytest.raises(StageError, match=r"hi\.txt in LORAJOB_ARTIFACTS .*remove hi --all"):
        kept.read("hi")
    kept.add("mr", TERMS)
    damaged, whole = kept.listed()
    assert (damaged.name, damaged.terms) == ("hi", 0) and whole.damaged is None
    assert "remove hi --all" in str(damaged.damaged)
    assert kept.remove_all("hi").terms == 0
    assert kept.read("hi") == Glossary() and kept.listed() == [whole]


def test_a_file_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, artifacts=tmp_path / "jobs")
    kept = GlossaryFiles(settings)
    kept.add("mr", TERMS)
    (settings.jobs / FOLDER / "hi.txt").mkdir()
    damaged, whole = kept.listed()
    assert damaged.name == "hi" and "cannot be read (Is a directory)" in str(damaged.damaged)
    assert (whole.name, whole.damaged) == ("mr", None)


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "damaged"
    path.write_bytes(data)
    return path
