"""The glossary of a job (`evaluate.glossary`): checked at submit, copied, and its terms counted."""

from pathlib import Path

import pytest

from lorajob.book.scores import TermCounter, TermCounts
from lorajob.book.terms import terms_of
from lorajob.errors import UsageError
from lorajob.job.jobdir import JobDir, hash_file, write_json
from lorajob.spec import JobSpec, build_spec
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store
from lorajob.tasks.job_glossary import copy_glossary, with_glossary
from lorajob.tasks.texts import copy_text, with_text
from lorajob.tasks.verify import book_faults, verify
from lorajob.worker.artifacts.job_files import LocalJob
from tests.support.command import job_record


def spec(glossary: object, **more: object) -> JobSpec:
    evaluate = {"glossary": str(glossary), **more}
    return build_spec({"language": "hi", "corpus": "/c.tar", "evaluate": evaluate})


def test_a_glossary_is_hashed_and_copied_to_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hi.txt"
    path.write_text("Nairobi\nDGX Spark\tdee jee\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    found = with_glossary(spec("{language}.txt"))
    assert found.evaluate.glossary == str(path) and with_glossary(found) == found
    assert found.evaluate.glossary_sha256 == hash_file(path)
    copy_glossary(found, Folder(tmp_path / "job"))
    assert JobDir(tmp_path / "job").glossary.read_bytes() == path.read_bytes()
    Store(f"memory://{tmp_path.name}").write("names.txt", path.read_bytes())
    url = f"memory://{tmp_path.name}/names.txt"
    stored = with_glossary(spec(url))
    assert stored.evaluate.glossary == url
    copy_glossary(stored, Folder(tmp_path / "other"))
    assert JobDir(tmp_path / "other").glossary.read_bytes() == path.read_bytes()
    path.write_text("Bern\n", "utf-8")
    with pytest.raises(UsageError, match="has changed meanwhile; submit again"):
        copy_glossary(found, Folder(tmp_path / "job"))
    with pytest.raises(UsageError, match="is another file than the settings name"):
        with_glossary(found)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "does not exist"),
        (b"# none\n\n", "has no terms"),
        (b"Bern\n\xff", "line 2 is not UTF-8"),
        (b"Bern\na\x07b\n", r"line 2: the control character U\+0007"),
        (b"x" * 101, "line 1: .* has 101 characters"),
    ],
)
def test_a_wrong_glossary_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"evaluate\.glossary: .*{why}"):
        with_glossary(spec(path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        with_glossary(spec(tmp_path))
    with pytest.raises(UsageError, match="is neither a file nor a url"):
        with_glossary(spec("hf:owner/names"))
    with pytest.raises(UsageError, match="does not exist"):
        with_glossary(spec(f"memory://{tmp_path.name}/none.txt"))


def test_terms_are_counted_as_often_as_they_are_said() -> None:
    counter = TermCounter(terms_of(["Nairobi", "DGX Spark", "Spark"]), "en")
    references = ["Nairobi, nairobi and a DGX spark.", "No name here"]
    heard = ["nairobi and a DGX Park", "No Spark here"]
    # Missed: one Nairobi, DGX Spark, and Spark inside it.
    assert counter.count(references, references) == TermCounts(4, 0, 0, 9)
    found = counter.count(references, heard)
    assert found == TermCounts(said=4, missed=3, false_alarms=1, words=9)
    assert found.false_alarms_a_thousand == pytest.approx(1000 / 9)


def test_terms_of_a_language_without_spaces_are_found_inside_its_text() -> None:
    counter = TermCounter(terms_of(["東京"]), "ja")
    assert counter.count(["私は東京にいる。"], ["私は京都にいる"]) == TermCounts(1, 1, 0, 7)


def test_verify_finds_an_altered_glossary_and_text(tmp_path: Path) -> None:
    names, text = tmp_path / "hi.txt", tmp_path / "text.txt"
    names.write_text("Nairobi\n", "utf-8")
    text.write_text("एक वाक्य\n", "utf-8")
    found = with_glossary(with_text(spec(names, text=str(text))))
    record = job_record(tmp_path / "jobs", "hi-0000000a")
    record.save()
    job = JobDir(Path(record.folder))
    write_json(job.spec_path, found.as_written())
    store = Store(f"memory://{tmp_path.name}/hi-0000000a")
    for location in (Folder(job.root), store):
        copy_glossary(found, location)
        copy_text(found, location)
        assert list(book_faults(location, found)) == []
    assert verify(LocalJob(job.root), record, lambda: record).faults == ()
    job.glossary.write_text("Bern\n", "utf-8")
    job.text.unlink()
    missing, altered = verify(LocalJob(job.root), record, lambda: record).faults
    assert missing == "book/text: missing" and "book/glossary.txt: altered: sha256" in altered
    store.write("book/glossary.txt", b"Bern\n")
    store.remove("book/text")
    assert list(book_faults(store, found)) == [missing, altered]
