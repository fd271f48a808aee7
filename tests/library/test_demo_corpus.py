"""The spoken corpus of the demo, which other tests use too, in few clips."""

import csv
import ctypes
import hashlib
import io
import shutil
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lorajob.corpora import check_corpus, open_corpus
from lorajob.demo.espeak import VOICES, Speaker, Voice
from lorajob.demo.foreign import (
    CLIPS,
    FOREIGN_SENTENCES,
    clip_name,
    foreign_sounds,
    rendered_sounds,
)
from lorajob.demo.sentences import hindi_sentences
from lorajob.demo.speech import COLUMNS, demo_corpus, pack_release, speak_corpus
from lorajob.errors import InstallError, UsageError

TRAIN = ["मेरा नाम क्या है", "आज मौसम बहुत अच्छा है", "वह घर जा रहा है"]
TEST = ["आज वह घर पर है"]


def speak_few(folder: Path) -> Path:
    return speak_corpus(folder, train=TRAIN, dev=[], test=TEST, voices=VOICES[:2])


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8")), delimiter="\t"))


def test_no_test_sentence_is_heard_in_training() -> None:
    sentences = hindi_sentences()
    assert {split: len(lines) for split, lines in sentences.items()} == {
        "train": 220,
        "dev": 20,
        "test": 40,
    }
    everything = [line for lines in sentences.values() for line in lines]
    assert len(set(everything)) == len(everything) == 280


def test_the_words_of_the_test_mostly_occur_in_training() -> None:
    sentences = hindi_sentences()
    known = {word for line in sentences["train"] for word in line.replace(",", "").split()}
    words = [word for line in sentences["test"] for word in line.split()]
    assert sum(word in known for word in words) / len(words) > 0.9


def test_the_sentences_are_normal_hindi_of_four_to_ten_words() -> None:
    for line in (line for lines in hindi_sentences().values() for line in lines):
        assert unicodedata.normalize("NFC", line) == line.strip()
        assert 4 <= len(line.split()) <= 10, line
        names = [unicodedata.name(letter) for letter in line if letter not in " ,"]
        assert all(name.startswith("DEVANAGARI") for name in names), line


def test_it_is_laid_out_as_a_common_voice_release(tmp_path: Path) -> None:
    release = speak_few(tmp_path)
    assert release == tmp_path / "cv-corpus-demo" / "hi"
    names = {path.name for path in release.iterdir()}
    tables = {"train", "dev", "test", "validated", "other", "invalidated", "clip_durations"}
    assert names == {"clips"} | {f"{name}.tsv" for name in tables}
    header = (release / "train.tsv").read_text("utf-8").splitlines()[0]
    assert header.split("\t") == list(COLUMNS) and len(COLUMNS) == 13
    assert [row["sentence"] for row in rows(release / "train.tsv")] == TRAIN
    assert [row["sentence"] for row in rows(release / "test.tsv")] == TEST
    assert len(rows(release / "validated.tsv")) == 4
    assert rows(release / "other.tsv") == rows(release / "dev.tsv") == []
    assert {row["locale"] for row in rows(release / "validated.tsv")} == {"hi"}


def test_clips_are_48_khz_mono_mp3_of_the_length_that_is_written_down(tmp_path: Path) -> None:
    release = speak_few(tmp_path)
    for row in rows(release / "clip_durations.tsv"):
        info = soundfile.info(release / "clips" / row["clip"])
        assert (info.format, info.samplerate, info.channels) == ("MP3", 48_000, 1)
        assert 1 < info.duration < 5
        assert abs(info.duration - int(row["duration[ms]"]) / 1000) < 0.1
    samples, _ = soundfile.read(release / "clips" / "common_voice_hi_00000001.mp3")
    assert 0.01 < np.sqrt(np.mean(samples**2)) < 0.5


def test_each_voice_is_a_speaker_of_its_own(tmp_path: Path) -> None:
    spoken = rows(speak_few(tmp_path) / "train.tsv")
    speakers = [row["client_id"] for row in spoken]
    assert speakers[0] == speakers[2] != speakers[1]
    assert all(len(speaker_id) == 128 for speaker_id in speakers)
    assert len(set(VOICES)) == len(VOICES) >= 6


def test_the_same_corpus_has_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("first", "second"):
        tarball = pack_release(speak_few(tmp_path / name))
        assert tarball == tmp_path / name / "cv-corpus-demo-hi.tar.gz"
        digests.add(hashlib.sha256(tarball.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_tarball_opens_as_a_corpus(tmp_path: Path) -> None:
    release = speak_few(tmp_path)
    tarball = pack_release(release)
    with tarfile.open(tarball) as tar:
        assert tar.getnames()[:2] == ["cv-corpus-demo", "cv-corpus-demo/hi"]
    for path in (tarball, release):
        check_corpus(path, "hi")
        corpus = open_corpus(path, "hi")
        assert corpus.splits["train"] == 3 and corpus.splits["test"] == 1
        assert sorted(clip.text for clip in corpus.clips({"train"})) == sorted(TRAIN)


def test_other_languages_are_spoken_too(tmp_path: Path) -> None:
    release = speak_corpus(tmp_path, "sw", train=["Habari za asubuhi"], test=["Asante sana"])
    assert release.name == "sw"
    assert [row["sentence"] for row in rows(release / "test.tsv")] == ["Asante sana"]


def test_a_corpus_that_is_there_is_not_spoken_again(tmp_path: Path) -> None:
    (tmp_path / "cv-corpus-demo" / "hi" / "clips").mkdir(parents=True)
    (tmp_path / "cv-corpus-demo-hi.tar.gz").write_bytes(b"spoken before")
    assert demo_corpus(tmp_path).read_bytes() == b"spoken before"


def test_a_sentence_in_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is in two splits"):
        speak_corpus(tmp_path, train=TRAIN, test=TRAIN[:1])


def test_another_language_needs_its_own_sentences(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train: sentences are needed"):
        speak_corpus(tmp_path, "ml")


def test_a_voice_that_does_not_exist_is_named() -> None:
    with Speaker() as speaker, pytest.raises(UsageError, match=r"no 'xx\+m1'"):
        speaker.say("text", "xx", Voice("m1"))


def test_the_shipped_clips_are_those_of_the_sentences() -> None:
    sounds = foreign_sounds()
    assert {code: len(texts) for code, texts in FOREIGN_SENTENCES.items()} == {
        "en": 4,
        "es": 2,
        "de": 2,
        "fr": 2,
        "it": 2,
        "pt": 2,
    }
    names = {
        clip_name(code, turn) for code, its in FOREIGN_SENTENCES.items() for turn in range(len(its))
    }
    assert {path.name for path in CLIPS.iterdir()} == names | {"README.md"}
    assert sum(path.stat().st_size for path in CLIPS.iterdir()) < 1_000_000
    for name in names:
        info = soundfile.info(CLIPS / name)
        assert (info.format, info.channels, info.samplerate) == ("FLAC", 1, 16_000)
    for shipped in (clip for clips in sounds.values() for clip in clips):
        assert shipped.dtype == np.float32 and 2 < len(shipped) / 16_000 < 4
    rendered = rendered_sounds()
    assert sounds.keys() == rendered.keys()
    same_espeak = espeak_version() == "1.52.0"  # which spoke the shipped clips
    for code, clips in rendered.items():
        for shipped, spoken in zip(sounds[code], clips, strict=True):
            if same_espeak:
                # Rounded to 16 bits.
                np.testing.assert_allclose(shipped, spoken, rtol=0, atol=2 / 32768)
            assert len(spoken) == pytest.approx(len(shipped), rel=0.2)
            assert np.std(spoken) == pytest.approx(np.std(shipped), rel=0.5)


def espeak_version() -> str:
    with Speaker() as speaker:
        about = speaker._library.espeak_Info
        about.restype = ctypes.c_char_p
        version: bytes = about(None)
    return version.decode().split()[0]


def test_a_missing_clip_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CLIPS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "fr_2.flac").unlink()
    monkeypatch.setattr("lorajob.demo.foreign.CLIPS", tmp_path)
    foreign_sounds.cache_clear()
    with pytest.raises(InstallError, match=r"fr_2\.flac: not found.*; install lorajob again"):
        foreign_sounds()
