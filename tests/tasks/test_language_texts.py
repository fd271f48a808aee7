"""The text of a language (`lorajob lm`) and texts behind urls: set, listed, and used by submits."""

import gzip
import json
from pathlib import Path

import pytest

from lorajob.cli.main import main
from lorajob.client.texts import LocalTexts
from lorajob.corpora import remote, texts
from lorajob.corpora.texts import _parts, text_file, text_in_use
from lorajob.errors import FilesError, UsageError
from lorajob.job.jobdir import JobDir, hash_file
from lorajob.spec import JobSpec, build_spec
from lorajob.spec_gate import GateConfig
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store, StoreError
from lorajob.storage.urls import public_spec
from lorajob.tasks.batches import _ids_asked_for, _unset, submit_batch
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.language_texts import FOLDER, LanguageTexts
from lorajob.tasks.texts import copy_text, with_text
from lorajob.worker.settings import Settings
from tests.support.corpora import write_corpus
from tests.support.web_server import Archive, web

__all__ = ["web"]


def spec(text: str | None, **more: object) -> JobSpec:
    evaluate = {"text": text, **more}
    return build_spec({"language": "hi", "corpus": "/c.tar", "evaluate": evaluate})


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", artifacts=tmp_path / "jobs")


def test_the_text_of_a_language_takes_the_place_of_an_earlier_one(
    settings: Settings, tmp_path: Path
) -> None:
    kept = LanguageTexts(settings)
    first = write(tmp_path / "a.txt", "एक वाक्य\n\n...\n")
    other = write(tmp_path / "b.txt.gz", "दूसरा\u2028वाक्य\nतीसरा")
    made = kept.set("Hindi", [first, other])
    assert (made.language, made.lines) == ("hi", 3) and kept.listed() == [made]
    place = kept.place("hi")
    assert place is not None and hash_file(Path(place)) == made.sha256
    with gzip.open(place, "rt", encoding="utf-8", newline="\n") as file:
        assert file.read() == "एक वाक्य\nदूसरा\u2028वाक्य\nतीसरा\n"
    assert kept.set("hi", [other]).lines == 2 and kept.place("mr") is None
    for wrong, kind in ((write(tmp_path / "c.txt", "...\n"), UsageError), (tmp_path, FilesError)):
        with pytest.raises(kind):
            kept.set("hi", [wrong])
    assert [it.lines for it in kept.listed()] == [2]
    (settings.jobs / FOLDER / "hi.json").write_text("[")
    (damaged,) = kept.listed()
    assert "damaged; set the text again, or `lorajob lm remove hi`" in str(damaged.damaged)
    (settings.jobs / FOLDER / "hi.json").unlink()
    (damaged,) = kept.listed()
    assert ".texts/hi.json in LORAJOB_ARTIFACTS is missing; set" in str(damaged.damaged)
    (settings.jobs / FOLDER / "hi.json").mkdir()
    (damaged,) = kept.listed()
    assert ".texts/hi.json in LORAJOB_ARTIFACTS is not readable (Is a" in str(damaged.damaged)
    (settings.jobs / FOLDER / "hi.json").rmdir()
    assert kept.remove("hi") == "hi" and kept.listed() == [] and kept.place("hi") is None
    with pytest.raises(UsageError, match="hi has no text"):
        kept.remove("hi")


def test_jobs_of_a_language_take_its_text_along(jobs: Jobs, tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "hi.csv"))
    given = {"language": "hi", "corpus": corpus, "base_model": "demo/whisper-base"}
    kept = LanguageTexts(jobs.settings)
    made = kept.set("hi", [write(tmp_path / "a.txt", "एक वाक्य\n")])
    job = JobDir(jobs.settings.jobs / jobs.submit(build_spec(given)))
    assert hash_file(job.text) == made.sha256
    assert JobSpec.load(job.spec_path).evaluate.text_sha256 == made.sha256
    own = str(write(tmp_path / "own.txt", "अपना\n"))
    for evaluate, text in (({"language_text": False}, None), ({"text": own}, own)):
        found = jobs.with_text(jobs.resolve(build_spec(given | {"evaluate": evaluate})))
        assert found.evaluate.text == text
    other = jobs.resolve(build_spec(given | {"language": "mr"}))
    assert jobs.with_text(other).evaluate.text is None


def test_a_batch_is_the_same_whatever_text_its_language_has(jobs: Jobs, tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "hi.csv"))
    wanted = [build_spec({"language": "hi", "corpus": corpus, "base_model": "demo/whisper-base"})]
    first = submit_batch(jobs, wanted)
    kept = LanguageTexts(jobs.settings)
    made = kept.set("hi", [write(tmp_path / "a.txt", "एक वाक्य\n")])
    again = submit_batch(jobs, wanted)
    assert (again.batch.id, again.queued) == (first.batch.id, 0)
    other = submit_batch(jobs, wanted, salt="1")
    assert other.queued == 1
    job = JobDir(jobs.settings.jobs / other.batch.jobs[0])
    assert JobSpec.load(job.spec_path).evaluate.text_sha256 == made.sha256 == hash_file(job.text)


def test_the_twin_of_a_job_is_found_although_its_text_cannot_be_read_again(
    jobs: Jobs, tmp_path: Path
) -> None:
    text = write(tmp_path / "a.txt", "एक वाक्य\n")
    given = {"language": "hi", "corpus": str(write_corpus(tmp_path / "hi.csv"))}
    given |= {"base_model": "demo/whisper-base"}
    wanted = build_spec(given | {"evaluate": {"text": str(text)}})
    first, again = jobs.submit(wanted), jobs.submit(wanted)
    text.unlink()
    twin = jobs.twin(again, wanted)
    assert twin is not None and twin.id == first
    assert Jobs(jobs.settings).twin(again, wanted) is None


def test_a_text_is_read_after_the_checks_that_need_no_download(
    jobs: Jobs, web: Archive, tmp_path: Path
) -> None:
    wrong = {"language": "hi", "corpus": str(tmp_path / "away.csv"), "evaluate": {"text": web.url}}
    with pytest.raises(UsageError, match=r"away\.csv"):
        jobs.submit(build_spec(wrong | {"base_model": "demo/whisper-base"}))
    assert web.asked == []


def test_the_text_of_a_language_may_lie_in_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    settings = Settings(home=tmp_path / "home", artifacts=f"file://{tmp_path}/store")
    kept = LanguageTexts(settings)
    assert kept.listed() == [] and kept.place("hi") is None
    made = kept.set("hi", [write(tmp_path / "a.txt", "एक वाक्य\n")])
    assert kept.listed() == [made]
    place = kept.place("hi")
    assert place == f"file://{tmp_path}/store/.texts/hi.txt.gz"
    found = with_text(spec(place))
    assert (found.evaluate.text, found.evaluate.text_sha256) == (place, made.sha256)
    copy_text(found, Store(f"file://{tmp_path}/store/hi-1"))
    assert hash_file(tmp_path / "store" / "hi-1" / "book" / "text") == made.sha256
    kept.remove("hi")
    assert kept.listed() == []


def test_a_batch_keeps_its_id_although_the_setting_is_new() -> None:
    plain, without = spec(None), spec(None, language_text=False)
    ids = [_ids_asked_for([it], None, "")[0] for it in (plain, without)]
    assert ids[0] != ids[1]
    left_out = _unset(plain)["evaluate"]
    assert isinstance(left_out, set) and {"language_text", "text", "text_sha256"} <= left_out
    # So do those of jobs with other limits of the gate.
    strict = plain.model_copy(update={"gate": GateConfig(max_loops=0)})
    assert _unset(strict)["gate"] == {"min_speed", "max_memory_gb"}


def test_a_text_behind_a_url_is_fetched_and_copied(
    web: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    web.data = gzip.compress("एक वाक्य\n".encode() * 500)
    url = f"{web.url}?key=secret"
    found = with_text(spec(url))
    assert found.evaluate.text == url and "secret" not in str(public_spec(found))
    assert with_text(found) == found
    copy_text(found, Folder(tmp_path / "job"))
    assert JobDir(tmp_path / "job").text.read_bytes() == web.data
    assert len(web.asked) == 1
    web.data, web.modified = b"other\n" * 9, "Tue, 02 Jan 2024 00:00:00 GMT"
    with pytest.raises(UsageError, match="has changed meanwhile; submit again") as error:
        copy_text(found, Folder(tmp_path / "job"))
    assert "secret" not in str(error.value)
    monkeypatch.setattr(texts, "MOST_BYTES", 50)
    web.modified = "Wed, 03 Jan 2024 00:00:00 GMT"
    with pytest.raises(UsageError, match=r"^evaluate\.text: http.* has over .* give a part of it"):
        with_text(spec(url))
    web.status = 404
    with pytest.raises(UsageError, match=r"^evaluate\.text: http.*\?\*\*\* does not exist"):
        with_text(spec(url))


def test_a_text_behind_a_url_may_begin_with_a_tag_but_is_no_page(
    web: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    web.data = "<doc id=1>\nएक वाक्य\n</doc>\n".encode()
    assert text_file(web.url).read_bytes() == web.data
    web.data = b"<!DOCTYPE html><title>Log in</title>"
    with pytest.raises(StoreError, match="a web page came in place of the file"):
        text_file(web.url)


def test_a_text_that_turns_out_too_large_leaves_no_part(
    web: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(texts, "MOST_BYTES", 50)
    described = remote._described
    monkeypatch.setattr(remote, "_described", lambda store: described(store) | {"bytes": None})
    with pytest.raises(UsageError, match=r"has over .* give a part of it"):
        text_file(web.url)
    assert web.asked and not list((tmp_path / "home").rglob(".part-*"))


def test_the_copy_of_a_text_stays_while_it_is_read(
    web: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    web.data = "एक वाक्य\n".encode()
    with text_in_use(web.url) as path:
        remote.make_room(0)
        assert path.read_bytes() == web.data
    remote.make_room(0)
    assert not path.exists()


def test_the_parameters_of_a_data_set_of_texts() -> None:
    assert _parts("hf:a/b?split=x%2By&column=c") == ("hf:a/b?split=x%2By", "c")
    with pytest.raises(UsageError, match=r"colum=c: unknown .*revision and column may be left out"):
        _parts("hf:a/b?split=x&colum=c")


def test_what_is_wrong_with_a_file_names_it_and_the_language_comes_first(
    settings: Settings, tmp_path: Path
) -> None:
    kept, old = LocalTexts(Jobs(settings)), tmp_path / "old.txt"
    old.write_bytes(b"caf\xe9\n")
    with pytest.raises(UsageError, match=rf"^FILE: {old}: line 1 is not UTF-8"):
        kept.set("hi", [str(old)])
    with pytest.raises(UsageError, match="'xx' is"):
        kept.set("xx", [str(tmp_path / "away.txt")])
    with pytest.raises(UsageError, match="'news' is one text; give a list"):
        kept.set("hi", "news")


def test_lm_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LORAJOB_REDIS_URL", "redis://127.0.0.1:1")
    file = write(tmp_path / "a.txt", "एक वाक्य\nदो\n")
    assert main(["lm", "list"]) == 0
    assert "`lorajob lm LANG FILE` sets one" in capsys.readouterr().err
    assert main(["lm", "Hindi", str(file)]) == 0
    assert capsys.readouterr().out == "hi: 2 lines, 10 characters\n"
    assert main(["lm", "set", "hi", str(file), str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"] == 4
    assert main(["lm", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["hi", "4", "20"]
    for wrong, line in (
        (["lm", "hi", str(tmp_path / "away.txt")], "FILE: "),
        (["lm", "xx", str(file)], "'xx' is"),
        (["lm", "hi"], "No such command 'hi'"),
        (["lm", "remove", "mr"], "LANG: mr has no text"),
    ):
        assert main(wrong) == 2
        said = capsys.readouterr().err
        assert line in said and "Traceback" not in said
    assert main(["lm", "remove", "hi"]) == 0
    assert capsys.readouterr().out == "hi: removed\n"


def test_a_file_of_this_machine_is_no_pipe_and_no_folder(tmp_path: Path) -> None:
    for place in ("/dev/zero", str(tmp_path), "n" * 300, "a\0b", "~nobody-of-this-name/a"):
        with pytest.raises(UsageError):
            text_file(place)
