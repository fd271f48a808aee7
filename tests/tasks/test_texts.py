"""The text of a job (`evaluate.text`): checked at submit, and copied to the files of the job."""

import gzip
from pathlib import Path

import pytest

from lorajob.errors import UsageError
from lorajob.job.jobdir import TEXT, JobDir, hash_file
from lorajob.spec import JobSpec, build_spec
from lorajob.storage.locations import Folder
from lorajob.tasks.texts import copy_text, with_text


def spec(text: object, **more: object) -> JobSpec:
    evaluate = {"text": str(text), **more}
    return build_spec({"language": "hi", "corpus": "/c.tar", "evaluate": evaluate})


def test_a_text_is_hashed_and_copied_to_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "news.txt.gz"
    path.write_bytes(gzip.compress("...\nएक वाक्य\n".encode()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hi.txt").symlink_to(path)
    assert with_text(spec("{language}.txt")).evaluate.text == str(path)
    found = with_text(spec("news.txt.gz"))
    assert found.evaluate.text == str(path)
    assert found.evaluate.text_sha256 == hash_file(path)
    assert with_text(found) == found
    copy_text(found, Folder(tmp_path / "job"))
    assert JobDir(tmp_path / "job").text.read_bytes() == path.read_bytes()
    assert JobDir(tmp_path / "job").text == tmp_path / "job" / TEXT
    path.write_text("ein anderer\n", "utf-8")
    with pytest.raises(UsageError, match="has changed meanwhile; submit again"):
        copy_text(found, Folder(tmp_path / "job"))
    with pytest.raises(UsageError, match="is another file than the settings name"):
        with_text(found)
    path.unlink()
    with pytest.raises(UsageError, match="has changed meanwhile; submit again"):
        copy_text(found, Folder(tmp_path / "job"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "is no file on this machine"),
        (b"", "has no words; give a sentence a line"),
        (b"?!\n...\n", "has no words"),
        ("ठीक\n".encode() + b"\xff\xfe", "line 2 is not UTF-8"),
        (b"\x1f\x8bnot gzip", "damaged"),
    ],
)
def test_a_text_that_no_model_can_be_made_of_is_refused(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "news.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"evaluate.text: .*{why}"):
        with_text(spec(path))


def test_what_is_no_file_is_no_text(tmp_path: Path) -> None:
    for name in (tmp_path, "/dev/zero", "n" * 300, "~nobody-of-this-name/a.txt", "a\0b.txt"):
        with pytest.raises(UsageError, match=r"^evaluate\.text: .{5,240}$"):
            with_text(spec(name))
    with pytest.raises(UsageError, match="mdc:abc names no text"):
        with_text(spec("mdc:abc"))
