"""Which reader reads a corpus, and what is said when none does."""

import gc
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from lorajob.corpora import check_corpus, open_corpus, readers
from lorajob.corpora.archive import Archive
from lorajob.corpora.trees import TarTree
from lorajob.errors import CorpusError, LorajobError, UsageError
from tests.support.speech import Spoken, make_release, pack

DOCS = Path(__file__).parents[2] / "docs" / "corpora.md"
LINES = [Spoken("c1.mp3", "हाँ"), Spoken("c2.mp3", "नहीं", "b", "test")]


@pytest.fixture
def plain_readers():
    """The cached readers are read again before and after."""
    readers.readers.cache_clear()
    yield
    readers.readers.cache_clear()


def shapes(folder: Path) -> list[Path]:
    """Three corpora in layouts that no reader knows."""
    database, nested, lines = (folder / name for name in ("database", "nested", "lines"))
    for made in (database, nested / "speaker1" / "session1", lines):
        made.mkdir(parents=True)
    (database / "corpus.sqlite").write_bytes(b"SQLite format 3\0")
    (nested / "speaker1" / "session1" / "prompts.xml").write_text("<p/>")
    (nested / "speaker1" / "session1" / "take.wav").write_bytes(b"RIFF")
    (lines / "lines.psv").write_text("a|one\n")
    return [database, nested, lines]


def test_a_layout_no_reader_knows_ends_in_one_line_with_the_reason_of_each(tmp_path):
    for path in shapes(tmp_path):
        for look in (check_corpus, open_corpus):
            with pytest.raises(LorajobError) as caught:
                look(path, "hi")
            said = str(caught.value)
            assert "\n" not in said and str(path) in said
            for reader in readers.BUILT_IN:
                assert re.search(rf"{re.escape(reader.NAME)}: .+[;)]", said), said


def test_a_release_in_a_zip_reads_like_its_folder(tmp_path):
    root = make_release(tmp_path, LINES)
    packed = tmp_path / "r.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(root.parent.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
        archive.writestr("__MACOSX/cv/._train.tsv", b"\0")
    check_corpus(packed, "hi")
    corpus = open_corpus(packed, "hi")
    assert corpus.splits == {"train": 1, "test": 1}
    (clip,) = corpus.clips(["test"])
    sound = (root / "clips" / "c2.mp3").read_bytes()
    assert (clip.id, clip.text, clip.speaker, clip.audio) == ("c2.mp3", "नहीं", "b", sound)


@pytest.mark.parametrize(("name", "why"), [("../x.tsv", "points outside"), ("/x", "points outsi")])
def test_a_zip_that_reaches_outside_itself_is_refused(tmp_path, name, why):
    path = tmp_path / "r.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(LorajobError, match=why):
        open_corpus(path, "hi")


def test_a_damaged_zip_is_named_as_such(tmp_path):
    path = tmp_path / "r.zip"
    path.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(LorajobError, match="not a whole zip archive"):
        open_corpus(path, "hi")


def test_an_archive_too_large_for_a_quick_look_is_judged_by_its_first_files(tmp_path, monkeypatch):
    monkeypatch.setattr("lorajob.corpora.find.GLANCE_SECONDS", 1e-9)
    root = make_release(tmp_path, LINES, language="ml")
    path = pack(root, tmp_path / "r.tar.gz")
    check_corpus(path, "ml")
    with pytest.raises(UsageError, match="is of ml, but the job's language is hi"):
        check_corpus(path, "hi")


def test_links_in_circles_are_not_followed(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "up").symlink_to(tmp_path)
    (tmp_path / "x.xml").touch()
    with pytest.raises(LorajobError, match="a layout that no reader knows"):
        open_corpus(tmp_path, "hi")


def test_a_json_list_may_end_with_a_comma_and_one_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(
        '[{"audio": "a.wav", "text": "एक"},\n{"audio": "b.wav", "text": "दो,]"},\n]\n', "utf-8"
    )
    assert [it.text for it in open_corpus(path, "hi").entries] == ["एक", "दो,]"]
    path.write_text('[{"audio": "a.wav" "text": "एक"}]', "utf-8")
    with pytest.raises(CorpusError, match=r"train\.json is not JSON: .*line 1 column 20"):
        open_corpus(path, "hi")


def test_a_pipe_in_a_folder_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "train.json")
    os.mkfifo(tmp_path / "train.tsv")
    with pytest.raises(LorajobError, match="a layout that no reader knows"):
        open_corpus(tmp_path, "hi")


@pytest.mark.parametrize(
    "data", [b"audio,text\rx.wav,one\ry.wav,two\r", "audio,text\na,b\n".encode("utf-16")]
)
def test_a_table_of_which_only_the_first_row_is_read_leaves_nothing_open(tmp_path, data):
    (tmp_path / "m.csv").write_bytes(data)
    # pytest fails the test for an error in a generator that is collected.
    check_corpus(tmp_path / "m.csv", "hi")
    gc.collect()


def documented_reader() -> str:
    code = re.search(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert code
    return code[1]


def test_the_documented_reader_of_another_package_reads_its_layout(
    tmp_path, monkeypatch, plain_readers
):
    package = tmp_path / "package"
    (package / "psv-1.0.dist-info").mkdir(parents=True)
    (package / "psv_reader.py").write_text(documented_reader())
    (package / "psv-1.0.dist-info" / "entry_points.txt").write_text(
        "[lorajob.readers]\npsv = psv_reader\n"
    )
    monkeypatch.syspath_prepend(str(package))
    corpus = tmp_path / "corpus"
    (corpus / "sound").mkdir(parents=True)
    (corpus / "lines.psv").write_text("a|one, two\n")
    (corpus / "sound" / "a.wav").write_bytes(b"RIFF")
    check_corpus(corpus, "hi")
    (clip,) = open_corpus(corpus, "hi").clips(["train"])
    assert (clip.text, clip.audio) == ("one, two", corpus / "sound" / "a.wav")
    for packed in (packed_as(corpus, "gztar"), packed_as(corpus, "zip")):
        check_corpus(packed, "hi")
        (clip,) = open_corpus(packed, "hi").clips(["train"])
        assert (clip.text, clip.audio) == ("one, two", b"RIFF")
    sys.modules.pop("psv_reader")


def packed_as(folder: Path, form: str) -> Path:
    return Path(shutil.make_archive(str(folder), form, folder.parent, folder.name))


def test_files_of_any_suffix_in_a_tar_are_copied_in_one_more_scan(tmp_path, monkeypatch):
    folder = tmp_path / "corpus"
    (folder / "notes").mkdir(parents=True)
    for name in ("a.dat", "b.DAT", "c.wav", "text", "readme"):
        (folder / "notes" / name).write_text(f"of {name}")
    tree = TarTree(packed_as(folder, "tar"))
    scans = []
    members = Archive.members
    monkeypatch.setattr(Archive, "members", lambda self: scans.append(1) or members(self))
    for name in ("a.dat", "b.DAT", "a.dat", "text"):
        with tree.open(f"corpus/notes/{name}") as file:
            assert file.read() == f"of {name}".encode()
    assert len(scans) == 1
    with tree.open("corpus/notes/readme") as file:
        assert file.read() == b"of readme"
    with pytest.raises(CorpusError, match=r"no file corpus/none\.dat in it"):
        tree.open("corpus/none.dat")
    assert len(scans) == 2


def test_a_reader_that_cannot_be_imported_is_named(tmp_path, monkeypatch, plain_readers):
    (tmp_path / "psv-1.0.dist-info").mkdir()
    (tmp_path / "psv-1.0.dist-info" / "entry_points.txt").write_text(
        "[lorajob.readers]\npsv = no_such_module\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"lorajob.readers: psv = no_such_module cannot be impor"):
        open_corpus(tmp_path, "hi")
