"""Common Voice releases, manifests, and finding them."""

import gzip
import io
import json
import tarfile

import pytest

from lorajob.corpora import archive, check_corpus, find_corpus, open_corpus
from lorajob.errors import CorpusError, UsageError
from tests.support.speech import COLUMNS, OLD_COLUMNS, Spoken, make_release, mp3, pack

LINES = [
    Spoken("c1.mp3", 'उसने कहा "चलो', "a", "train"),
    Spoken("c2.mp3", '"क्या?" वह बोला', "a", "train"),
    Spoken("c3.mp3", "हाँ", "b", "dev"),
    Spoken("c4.mp3", "नहीं", "c", "test"),
]


def texts(corpus, splits=("train", "dev", "test")):
    return {clip.id: clip.text for clip in corpus.clips(splits)}


def audio_bytes(clip):
    return clip.audio if isinstance(clip.audio, bytes) else clip.audio.read_bytes()


@pytest.mark.parametrize("columns", [COLUMNS, OLD_COLUMNS])
@pytest.mark.parametrize(
    "kind", ["language folder", "release folder", "tables last", "tables first"]
)
def test_a_release_reads_the_same_however_it_lies(tmp_path, kind, columns):
    root = make_release(tmp_path, LINES, columns=columns)
    path = {"language folder": root, "release folder": root.parent}.get(kind)
    path = path or pack(root, tmp_path / "r.tar.gz", tables_last=kind == "tables last")
    check_corpus(path, "hi")
    corpus = open_corpus(path, "hi")
    assert corpus.splits == {"test": 1, "dev": 1, "train": 2}
    assert texts(corpus) == {line.name: line.text for line in LINES}
    clips = list(corpus.clips(["train"]))
    assert [(clip.id, clip.speaker, clip.split) for clip in clips] == [
        ("c1.mp3", "a", "train"),
        ("c2.mp3", "a", "train"),
    ]
    assert audio_bytes(clips[0]) == mp3(1.0)
    assert [clip.id for clip in corpus.clips(["train", "test"], only={"c2.mp3", "c3.mp3"})] == [
        "c2.mp3"
    ]


def test_an_unpacked_archive_needs_no_disk(tmp_path):
    path = pack(make_release(tmp_path / "a", LINES), tmp_path / "r.tar.gz")
    before = set(tmp_path.rglob("*"))
    list(open_corpus(path, "hi").clips(["train", "dev", "test"]))
    assert set(tmp_path.rglob("*")) == before


def test_clips_listed_twice_stay_in_the_test_split(tmp_path):
    lines = [
        *LINES,
        Spoken("c4.mp3", "नहीं", "c", "train"),
        Spoken("c4.mp3", "नहीं", "c", "validated"),
    ]
    lines.append(Spoken("c5.mp3", "और", "d", "validated"))
    corpus = open_corpus(make_release(tmp_path, lines), "hi")
    assert corpus.splits == {"test": 1, "dev": 1, "train": 2, "validated": 1}


@pytest.mark.parametrize("packed", [False, True])
def test_audio_the_release_lacks_is_still_a_clip(tmp_path, packed):
    root = make_release(tmp_path, [*LINES, Spoken("gone.mp3", "कहाँ", seconds=0)])
    corpus = open_corpus(pack(root, tmp_path / "r.tgz") if packed else root, "hi")
    gone = {clip.id: clip for clip in corpus.clips(["train"])}["gone.mp3"]
    assert gone.audio == b"" if packed else not gone.audio.exists()


def test_names_without_a_suffix_are_mp3s(tmp_path):
    root = make_release(tmp_path, LINES)
    table = root / "train.tsv"
    table.write_text(table.read_text("utf-8").replace("c1.mp3", "c1"), "utf-8")
    clip = next(open_corpus(root, "hi").clips(["train"]))
    assert clip.audio.is_file()


def test_a_path_in_a_table_cannot_leave_the_clips_folder(tmp_path):
    root = make_release(tmp_path, LINES)
    table = root / "train.tsv"
    table.write_text(table.read_text("utf-8").replace("c1.mp3", "../../../etc/c1.mp3"), "utf-8")
    clip = next(open_corpus(root, "hi").clips(["train"]))
    assert clip.audio == root / "clips" / "c1.mp3"


@pytest.mark.parametrize("packed", [False, True])
def test_a_corpus_of_another_language_is_refused_at_a_glance(tmp_path, packed):
    root = make_release(tmp_path, LINES, language="ml")
    path = pack(root, tmp_path / "r.tar.gz") if packed else root.parent
    for look in (check_corpus, open_corpus):
        with pytest.raises(UsageError, match=r"is of ml, but the job's language is hi$"):
            look(path, "hi")


def test_the_locale_column_tells_the_language_where_no_folder_does(tmp_path):
    root = make_release(tmp_path, LINES, language="ml").rename(tmp_path / "speech")
    with pytest.raises(UsageError, match="is of ml"):
        open_corpus(root, "hi")
    assert sum(open_corpus(root, "ml").splits.values()) == 4


def test_a_regional_release_is_of_its_language(tmp_path):
    root = make_release(tmp_path, LINES, language="pa-IN")
    for path in (root, root.parent, pack(root, tmp_path / "r.tar.gz")):
        check_corpus(path, "pa")
        assert open_corpus(path, "pa").splits["train"] == 2


def test_a_table_without_its_columns_or_not_in_utf_8_is_named(tmp_path):
    root = make_release(tmp_path, LINES, columns=["client_id", "path"])
    with pytest.raises(CorpusError, match=r"test.tsv: no column sentence; .*client_id, path"):
        open_corpus(root, "hi")
    (root / "test.tsv").write_bytes(b"path\tsentence\nc4.mp3\t\xff\xfe\n")
    with pytest.raises(CorpusError, match=r"test.tsv: line 2 is not UTF-8"):
        open_corpus(root, "hi")


def test_what_is_no_corpus_is_refused_in_one_line(tmp_path):
    (tmp_path / "notes.docx").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "fake.tar.gz").write_bytes(b"not a tar")
    for name, kind in [
        ("none.tar.gz", UsageError),
        ("notes.docx", UsageError),
        ("empty", CorpusError),
        ("fake.tar.gz", CorpusError),
    ]:
        for look in (check_corpus, open_corpus):
            with pytest.raises(kind, match=name) as caught:
                look(tmp_path / name, "hi")
            assert "\n" not in str(caught.value)


def test_a_truncated_archive_is_named_as_such(tmp_path):
    path = pack(make_release(tmp_path, LINES), tmp_path / "r.tar.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(CorpusError, match="not a whole tar archive"):
        open_corpus(path, "hi")


def add_file(tar, name, data=b"x", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("cv/hi/../../x.tsv", {}, "points outside"),
        ("/etc/x.tsv", {}, "points outside"),
        (
            "cv/hi/link.tsv",
            {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
            "not a plain file or folder",
        ),
        (
            "cv/hi/hard.tsv",
            {"type": tarfile.LNKTYPE, "linkname": "cv/a"},
            "not a plain file or folder",
        ),
        ("cv/hi/pipe", {"type": tarfile.FIFOTYPE}, "not a plain file or folder"),
        ("cv/hi/device", {"type": tarfile.CHRTYPE}, "not a plain file or folder"),
    ],
)
def test_an_archive_that_reaches_outside_itself_is_refused(tmp_path, name, fields, why):
    path = tmp_path / "r.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add_file(tar, name, b"" if fields else b"x", **fields)
    for look in (check_corpus, open_corpus):
        with pytest.raises(CorpusError, match=why):
            look(path, "hi")


def test_an_archive_that_swells_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "r.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add_file(tar, "cv/hi/other.bin", bytes(2_000_000))
    monkeypatch.setattr(archive, "FREE_BYTES", 1000)
    with pytest.raises(CorpusError, match="unpacks to more"):
        open_corpus(path, "hi")


def test_a_header_too_large_to_hold_is_refused(tmp_path):
    member = tarfile.TarInfo("cv/hi/train.tsv")
    member.type = tarfile.XHDTYPE
    member.size = 1 << 40
    path = tmp_path / "r.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
    with pytest.raises(CorpusError, match="a header of 1,099,511,627,776 bytes"):
        open_corpus(path, "hi")


def test_a_clip_too_large_is_refused(tmp_path, monkeypatch):
    path = pack(make_release(tmp_path, LINES), tmp_path / "r.tar.gz")
    monkeypatch.setattr("lorajob.corpora.common_voice.MAX_AUDIO_BYTES", 100)
    with pytest.raises(CorpusError, match=r"c1.mp3 is .* bytes; allowed: 100"):
        list(open_corpus(path, "hi").clips(["train"]))


def test_reading_a_large_archive_can_be_stopped(tmp_path):
    path = pack(make_release(tmp_path, LINES), tmp_path / "r.tar.gz")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_corpus(path, "hi", stop)


def test_manifests_of_every_kind_say_the_same(tmp_path):
    rows = [("a.wav", 'She said "no", twice', "train", "x"), ("sub/b.wav", "हाँ", "validation", "y")]
    (tmp_path / "m.tsv").write_text(
        "path\tsentence\tsplit\tclient_id\n" + "".join("\t".join(row) + "\n" for row in rows),
        "utf-8",
    )
    quoted = 'file,transcript,split,speaker\na.wav,"She said ""no"", twice",train,x\n'
    (tmp_path / "m.csv").write_text(quoted + "sub/b.wav,हाँ,validation,y\n", "utf-8-sig")
    keys = ("audio_path", "transcription", "split", "speaker")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    (tmp_path / "m.jsonl").write_text("\n".join(lines) + "\n\n", "utf-8")
    read = []
    for suffix in ("tsv", "csv", "jsonl"):
        path = tmp_path / f"m.{suffix}"
        check_corpus(path, "hi")
        corpus = open_corpus(path, "hi")
        assert corpus.splits == {"train": 1, "dev": 1}
        read.append(list(corpus.clips(["train", "dev"])))
    assert read[0] == read[1] == read[2]
    assert [clip.text for clip in read[0]] == [rows[0][1], rows[1][1]]
    assert [clip.audio for clip in read[0]] == [tmp_path / "a.wav", tmp_path / "sub" / "b.wav"]


def test_a_manifest_without_splits_is_all_train_and_may_name_absolute_files(tmp_path):
    path = tmp_path / "data" / "metadata.csv"
    path.parent.mkdir()
    path.write_text(f"file_name,text\n{tmp_path}/a.wav,one\nb.wav,two\nb.wav,again\n,nothing\n")
    for given in (path, path.parent):
        check_corpus(given, "hi")
        clips = list(open_corpus(given, "hi").clips(["train"]))
        assert [clip.id for clip in clips] == [
            f"{tmp_path}/a.wav",
            "b.wav",
            "b.wav#2",
            "metadata.csv line 5",
        ]
        assert clips[0].audio == tmp_path / "a.wav"
        assert clips[3].audio == b""
        assert {clip.speaker for clip in clips} == {""}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("m.csv", "sound,text\na,b\n", "no column audio or path .*; its columns: sound, text"),
        ("m.csv", "audio,words\na,b\n", "no column text or sentence"),
        ("m.tsv", "audio\ttext\n", "lists no clips"),
        ("m.jsonl", '{"audio": "a", "text"\n', "line 1 is not JSON"),
        ("m.jsonl", "[1]\n", "line 1 is not a JSON object"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(tmp_path, name, text, why):
    path = tmp_path / name
    path.write_text(text)
    for look in (check_corpus, open_corpus):
        with pytest.raises(CorpusError, match=why):
            look(path, "hi")


def test_the_newest_release_of_a_language_is_found(tmp_path):
    for name in (
        "cv-corpus-9.0-2022-04-27-hi.tar.gz",
        "cv-corpus-23.0-2025-09-05-hi.tar.gz",
        "cv-corpus-23.0-delta-2025-09-05-hi.tar.gz",
        "cv-corpus-24.0-2025-12-05-ml.tar.gz",
        "cv-corpus-23.0-2025-09-05-hy-AM.tar.gz",
        "cv-corpus-23.0-2025-09-05-zh-TW.tar.gz",
    ):
        (tmp_path / name).touch()
    assert find_corpus(tmp_path, "hi").name == "cv-corpus-23.0-2025-09-05-hi.tar.gz"
    assert find_corpus(tmp_path, "hy").name == "cv-corpus-23.0-2025-09-05-hy-AM.tar.gz"
    assert find_corpus(tmp_path, "zh").name == "cv-corpus-23.0-2025-09-05-zh-TW.tar.gz"
    for other in ("am", "tw", "zh-CN", "mr"):
        with pytest.raises(CorpusError):
            find_corpus(tmp_path, other)
    (tmp_path / "cv-corpus-25.0-2026-03-01" / "hi").mkdir(parents=True)
    assert find_corpus(tmp_path, "hi") == tmp_path / "cv-corpus-25.0-2026-03-01" / "hi"


def test_a_folder_named_for_the_language_is_found(tmp_path):
    (tmp_path / "Hindi").mkdir()
    assert find_corpus(tmp_path, "hi") == tmp_path / "Hindi"


def test_where_no_corpus_is_the_error_says_where_they_come_from(tmp_path):
    for root in (None, tmp_path, tmp_path / "none"):
        with pytest.raises(CorpusError, match=r"Mozilla Data Collective.*manifest") as caught:
            find_corpus(root, "hi")
        assert "\n" not in str(caught.value)


def test_an_archive_cut_off_in_its_header_is_named_as_such(tmp_path):
    whole = pack(make_release(tmp_path, LINES), tmp_path / "r.tar.gz").read_bytes()
    for length in range(12):
        path = tmp_path / "cut.tar.gz"
        path.write_bytes(whole[:length])
        with pytest.raises(CorpusError, match=r"cut\.tar\.gz"):
            open_corpus(path, "hi")
