"""`lorajob corpus convert` and `lorajob languages`."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from lorajob.cli.corpus import corpus
from lorajob.cli.languages import languages
from lorajob.corpora import check_corpus, open_corpus
from lorajob.corpora.pieces import pieces
from lorajob.errors import CorpusError, UsageError
from lorajob.languages import known_languages
from tests.support.layouts import LAYOUTS, put, sound


def convert(*args):
    """Run the command; its errors are raised."""
    done = CliRunner().invoke(corpus, ["convert", *map(str, args), "--lang", "hi"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stderr


def heard(path):
    found = open_corpus(path, "hi")
    read = pieces(found.clips(found.splits), 30)
    clips = [(it.clip.text, it.clip.speaker, it.clip.split, it.samples(30)) for it in read]
    return sorted(clips, key=lambda clip: (*clip[:3], np.argmax(np.abs(np.fft.rfft(clip[3])))))


@pytest.mark.parametrize("out", ["out", "out.parquet"])
@pytest.mark.parametrize("name", ["kaldi", "subtitles", "librispeech", "parquet", "single word"])
def test_a_converted_corpus_says_the_same(tmp_path, name, out):
    source = tmp_path / "corpus"
    source.mkdir()
    clips = len(LAYOUTS[name].make(source))
    said = convert(source, tmp_path / out)
    assert said == f"{source}: {clips} clips are in {tmp_path / out}\n"
    check_corpus(tmp_path / out, "hi")
    for new, old in zip(heard(tmp_path / out), heard(source), strict=True):
        assert new[:3] == old[:3]
        # Segments in Parquet have 16 bits.
        np.testing.assert_allclose(new[3], old[3], atol=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", out}


def test_a_recording_is_written_once(tmp_path):
    source = tmp_path / "corpus"
    source.mkdir()
    LAYOUTS["kaldi"].make(source)
    convert(source, tmp_path / "out")
    assert len(list((tmp_path / "out" / "clips").iterdir())) == 2


def test_datasets_reads_the_parquet_file(tmp_path):
    import datasets

    put(tmp_path / "a.wav", sound(1))
    put(tmp_path / "m.csv", "audio,text\na.wav,one\n")
    convert(tmp_path / "m.csv", tmp_path / "m.parquet")
    read = datasets.Dataset.from_parquet(
        str(tmp_path / "m.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(read.features["audio"], datasets.Audio)
    read = read.cast_column("audio", datasets.Audio(decode=False))
    assert read[0]["audio"]["bytes"] == sound(1)
    assert (read[0]["text"], read[0]["split"]) == ("one", "train")


def test_what_is_left_out_is_counted(tmp_path):
    put(tmp_path / "a.wav", sound(1))
    put(tmp_path / "m.csv", "audio,text,start,end\na.wav,one,,\nb.wav,two,,\na.wav,three,2,1\n")
    said = convert(tmp_path / "m.csv", tmp_path / "out")
    assert "1 clips are in" in said
    assert "left out: 1 not found" in said
    assert "left out: 1 segment that ends before it starts" in said


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path):
    put(tmp_path / "m.csv", "audio,text\ngone.wav,one\n")
    with pytest.raises(CorpusError, match="no clip to write: 1 not found"):
        convert(tmp_path / "m.csv", tmp_path / "out")
    with pytest.raises(UsageError, match=r"m\.csv exists; name a new folder"):
        convert(tmp_path / "m.csv", tmp_path / "m.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


def test_languages_are_listed_with_scripts_and_tokens():
    rows = {it["code"]: it for it in json.loads(CliRunner().invoke(languages, ["--json"]).output)}
    assert len(rows) == len(known_languages())
    assert rows["hi"] == {
        "code": "hi",
        "name": "Hindi",
        "scripts": ["Deva"],
        "token": "hi",
        "metric": "wer",
        "stand_in": False,
        "note": None,
    }
    assert rows["sr"]["scripts"] == ["Cyrl", "Latn"]
    assert (rows["or"]["token"], rows["or"]["stand_in"]) == ("bn", True) and rows["or"]["note"]
    lines = CliRunner().invoke(languages).output.splitlines()
    assert len(lines) == len(rows)
    assert next(line for line in lines if line.startswith("ja ")).split() == [
        "ja", "Japanese", "Jpan", "ja", "cer",
    ]  # fmt: skip
