"""`submit` refuses what preprocessing would refuse, as far as two seconds tell."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from lorajob.checking import glance
from lorajob.errors import CorpusError
from lorajob.spec import build_spec
from lorajob.tasks.jobs import Jobs
from lorajob.worker.settings import Settings
from tests.support.speech import Spoken, make_release, pack

HINDI = ["हमने देखा", "वह घर गया", "आज मौसम अच्छा है"]
ENGLISH = ["we saw it", "he went home", "fine weather today"]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lorajob.tasks.jobs._commit_of", lambda *_: None)
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
