"""`submit` refuses what preprocessing would refuse, as far as two seconds tell."""

import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from lorajob.checking import glance
from lorajob.corpora import find, peek
from lorajob.errors import CorpusError, UsageError
from lorajob.spec import build_spec
from lorajob.tasks.jobs import Jobs
from lorajob.worker.settings import Settings
from tests.support.speech import Spoken, make_release, pack
from tests.support.web_server import Archive

HINDI = ["हमने देखा", "वह घर गया", "आज मौसम अच्छा है"]
ENGLISH = ["we saw it", "he went home", "fine weather today"]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lorajob.tasks.jobs._commit_of", lambda *_: None)
    # A busy machine may need longer than users wait.
    for module in (glance, find):
        monkeypatch.setattr(module, "GLANCE_SECONDS", 300.0)
    settings = Settings(home=tmp_path / "home", redis_url=SecretStr("redis://127.0.0.1:1/0"))

    def check(corpus: Path | str, **values: object) -> None:
        spec = build_spec({"language": "hi", "corpus": str(corpus), "base_model": "x/y"} | values)
        Jobs(settings).check(spec)

    return check


def manifest(folder: Path, texts: list[str], split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    rows = [f"{number}.wav\t{text}\t{split}" for number, text in enumerate(texts)]
    path = folder / "manifest.tsv"
    path.write_text("\n".join(["audio\ttext\tsplit", *rows]) + "\n", "utf-8")
    return path


def test_a_corpus_of_the_right_script_and_splits_is_taken(check, tmp_path: Path) -> None:
    check(manifest(tmp_path / "c", [*HINDI, "this one is English"]))


def test_texts_in_another_script_are_refused_in_one_line(check, tmp_path: Path) -> None:
    path = manifest(tmp_path / "c", [*ENGLISH, HINDI[0]])
    with pytest.raises(CorpusError) as refused:
        check(path)
    assert str(refused.value) == (
        "corpus: 3 of 4 texts are in another script than Hindi is written in (Deva), such as"
        " 'we saw it'; give the right corpus or language, or --allow-script"
    )
    check(path, preprocess={"allow_script": True})
    check(path, language="en")


def test_a_corpus_without_training_clips_is_refused_with_its_splits(check, tmp_path: Path) -> None:
    path = manifest(tmp_path / "c", HINDI, "middle")
    with pytest.raises(CorpusError, match=r"no clips in train, dev; splits .*: middle \(3\)"):
        check(path)
    check(path, preprocess={"train_splits": ["middle"]})
    # Another corpus has the training clips.
    more = [{"corpus": str(manifest(tmp_path / "d", HINDI))}]
    check(path, more_corpora=more)
    # A test corpus is not for training.
    with pytest.raises(CorpusError, match="no clips in train, dev"):
        check(path, test_corpus=more[0]["corpus"])


def test_an_archive_is_read_too(check, tmp_path: Path) -> None:
    lines = [Spoken(f"{n}.mp3", text, seconds=0.2) for n, text in enumerate(ENGLISH)]
    with pytest.raises(CorpusError, match="3 of 3 texts are in another script"):
        check(pack(make_release(tmp_path, lines), tmp_path / "r.tar.gz"))


def test_tables_that_take_too_long_are_left_to_the_worker(
    check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glance, "GLANCE_SECONDS", -1.0)
    check(manifest(tmp_path / "c", ENGLISH))


def served(web: Archive, data: bytes, name: str = "cv-hi.tar") -> str:
    web.data = data
    return web.url.replace("cv-hi.tar.gz", name)


def tar_of(table: str, sound_bytes: int = 0) -> bytes:
    """A tar archive of a manifest, then of sound."""
    return tar_with({"manifest.tsv": table.encode(), "0.wav": bytes(sound_bytes)})


def tar_with(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"corpus/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def rows(texts: list[str], split: str = "train", header: str = "audio\ttext\tsplit") -> str:
    return "\n".join([header, *(f"{n}.wav\t{it}\t{split}" for n, it in enumerate(texts))]) + "\n"


def test_a_small_archive_behind_a_url_is_checked_as_on_this_disk(check, web) -> None:
    check(served(web, tar_of(rows(HINDI))))
    with pytest.raises(CorpusError, match="3 of 3 texts are in another script"):
        check(served(web, tar_of(rows(ENGLISH))))
    with pytest.raises(CorpusError, match=r"no clips in train, dev; .*: middle \(3\)"):
        check(served(web, tar_of(rows(HINDI, "middle"))))
    page = b"<!DOCTYPE html><title>Sign in</title>" * 100
    with pytest.raises(CorpusError, match=r"http://.*cv-hi.tar.gz: not a whole tar archive"):
        check(served(web, page, "cv-hi.tar.gz"))


def test_the_first_megabytes_of_a_large_archive_are_checked(check, web, monkeypatch):
    monkeypatch.setattr(peek, "PEEK_BYTES", 20_000)
    monkeypatch.setattr(peek, "BLOCK_BYTES", 10_000)
    monkeypatch.setattr(peek, "LEAST_BYTES", 10_000)
    for ranges in (True, False):
        web.ranges = ranges
        check(served(web, tar_of(rows(HINDI), 900_000)))
        # Other tables may be behind the sound.
        check(served(web, tar_of(rows(HINDI, "middle"), 900_000)))
        with pytest.raises(CorpusError, match="3 of 3 texts are in another script"):
            check(served(web, tar_of(rows(ENGLISH), 900_000)))
        wrong = rows(HINDI, header="audio\twords\tsplit")
        with pytest.raises(CorpusError, match="no column text or sentence"):
            check(served(web, tar_of(wrong, 900_000)))
        # The first files of a large data set name others, which come later.
        dataset = {it: b"{}" for it in ("dataset_dict.json", "train/dataset_info.json")}
        dataset["train/state.json"] = b'{"_data_files": [{"filename": "0.arrow"}]}'
        check(served(web, tar_with(dataset | {"train/0.arrow": bytes(900_000)})))
        # Its first table is longer than what was read.
        check(served(web, tar_of(rows(ENGLISH * 2_000))))


def test_the_table_of_contents_of_a_zip_and_a_parquet_file_behind_a_url_is_read(
    check, tmp_path: Path, web: Archive
) -> None:
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("0.wav", bytes(900_000))
        file.writestr("manifest.tsv", rows(ENGLISH))
    with pytest.raises(CorpusError, match="3 of 3 texts are in another script"):
        check(served(web, path.read_bytes(), "c.zip"))
    # A server that sends files only from their beginning does not tell.
    web.ranges = False
    check(served(web, path.read_bytes(), "c.zip"))
    web.ranges = True
    path.write_bytes(b"PK" + bytes(100_000))
    with pytest.raises(UsageError, match="not a whole zip archive"):
        check(served(web, path.read_bytes(), "c.zip"))
    table = {"audio": [b"RIFF"] * 3, "text": HINDI}
    for name, values in (("right", table), ("wrong", {"audio": table["audio"], "words": HINDI})):
        pq.write_table(pa.table(values), tmp_path / f"{name}.parquet")
    check(served(web, (tmp_path / "right.parquet").read_bytes(), "c.parquet"))
    with pytest.raises(CorpusError, match=r"no column text .*; its columns: audio, words"):
        check(served(web, (tmp_path / "wrong.parquet").read_bytes(), "c.parquet"))


def test_a_slow_server_does_not_hold_up_submit(check, web, monkeypatch) -> None:
    monkeypatch.setattr(glance, "GLANCE_SECONDS", 0.2)
    web.pause_seconds = 0.5
    check(served(web, tar_of(rows(ENGLISH), 60_000)))
