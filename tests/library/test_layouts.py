"""The layouts of others: each as a folder, a tar.gz and a zip, and what is wrong in them."""

from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from lorajob.corpora import check_corpus, check_remote, find_corpus, local_copy, open_corpus
from lorajob.corpora.clip import Clip
from lorajob.corpora.entries import EntryList
from lorajob.corpora.pieces import pieces
from lorajob.corpora.place import open_place
from lorajob.corpora.readers import reader_of
from lorajob.errors import CorpusError, UsageError
from tests.support.layouts import (
    LAYOUTS,
    ONE,
    THREE,
    TWO,
    Heard,
    dataset,
    fleurs,
    fleurs_of_the_hub,
    kaldi,
    ljspeech,
    pack_folder,
    put,
    recording,
    sound,
    spontaneous,
    textgrid,
)
from tests.support.web_server import serving


def heard(path: Path, columns: dict[str, str] | None = None) -> list[Heard]:
    """All clips of a corpus, by their sound."""
    corpus = open_corpus(path, "hi", columns=columns or {})
    # A tuple would keep all rows in memory.
    assert isinstance(corpus.entries, EntryList)
    found = []
    for piece in pieces(corpus.clips(corpus.splits), 30):
        clip = piece.clip
        assert not clip.fault, clip
        samples = piece.samples(30)
        middle = samples[len(samples) // 4 : 3 * len(samples) // 4]
        hertz = np.argmax(np.abs(np.fft.rfft(middle))) * 16_000 / len(middle)
        found.append(Heard(round((hertz - 300) / 100), clip.text, clip.speaker, clip.split))
    return sorted(found)


def faults(path: Path) -> dict[str, str]:
    corpus = open_corpus(path, "hi")
    return {entry.id: entry.fault for entry in corpus.entries if entry.fault}


@pytest.mark.parametrize("kind", ["folder", "tar.gz", "zip"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_reads_the_same_as_folder_and_archive(tmp_path, name, kind):
    layout, folder = LAYOUTS[name], tmp_path / "corpus"
    folder.mkdir()
    expected = sorted(layout.make(folder))
    path = folder if kind == "folder" else pack_folder(folder, tmp_path / f"corpus.{kind}")
    assert layout.reader == reader_of(open_place(path)).NAME
    check_corpus(path, "hi")
    assert heard(path) == expected


def test_fleurs_as_the_hub_has_it_is_read_from_its_archives(tmp_path):
    expected = sorted(fleurs_of_the_hub(tmp_path))
    check_corpus(tmp_path, "hi")
    assert heard(tmp_path) == expected


def test_another_column_is_read_when_it_is_mapped(tmp_path):
    fleurs(tmp_path / "f")
    raw = {"text": "raw_transcription"}
    assert {it.text for it in heard(tmp_path / "f", raw)} == {f"{it}!" for it in (ONE, TWO, THREE)}
    ljspeech(tmp_path / "l")
    assert {it.text for it in heard(tmp_path / "l", {"text": "normalized_text"})} == {ONE, "उसने"}
    put(tmp_path / "m.csv", "sound,words,who\n1.wav,one,a\n")
    put(tmp_path / "1.wav", sound(1))
    columns = {"audio": "sound", "text": "words", "speaker": "who"}
    assert heard(tmp_path / "m.csv", columns) == [Heard(1, "one", "a", "train")]
    with pytest.raises(CorpusError, match=r"no column wrods; its columns: sound, words, who"):
        check_corpus(tmp_path / "m.csv", "hi", columns | {"text": "wrods"})
    with pytest.raises(CorpusError, match="no column transcript; its columns: id, file_name"):
        check_corpus(tmp_path / "f", "hi", {"text": "transcript"})


@pytest.mark.parametrize("make", [fleurs, spontaneous])
def test_a_corpus_of_another_language_is_refused(tmp_path, make):
    make(tmp_path)
    for look in (check_corpus, open_corpus):
        with pytest.raises(UsageError, match=r"the job's language is ta$"):
            look(tmp_path, "ta")


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("sph2pipe -f wav a.sph |", "has a pipe for rec-train"),
        ("| cat a.wav", "has a pipe"),
        ("raw.ark:1234", "has a Kaldi archive"),
    ],
)
def test_a_pipe_of_kaldi_is_refused_and_never_run(tmp_path, file, why):
    kaldi(tmp_path)
    put(tmp_path / "data" / "train" / "wav.scp", f"rec-train {file}\n")
    for look in (check_corpus, open_corpus):
        with pytest.raises(CorpusError, match=why) as caught:
            look(tmp_path, "hi")
        assert "\n" not in str(caught.value)


def test_what_kaldis_tables_lack_is_counted_by_its_reason(tmp_path):
    kaldi(tmp_path)
    data = tmp_path / "data" / "train"
    put(data / "text", f"train-1 {ONE}\nextra {ONE}\n")
    put(data / "segments", "train-1 rec-train 0 1\ntrain-2 rec-train 1 2\nlost gone 0 1\n")
    assert faults(tmp_path) == {
        "train-2": "no transcript in text",
        "extra": "not in segments",
        "lost": "recording not in wav.scp",
    }


def test_a_row_of_another_width_is_dropped_and_not_cut(tmp_path):
    ljspeech(tmp_path)
    table = tmp_path / "metadata.csv"
    table.write_text(table.read_text("utf-8") + "LJ001-0003|half|of|it\n", "utf-8")
    assert faults(tmp_path) == {"LJ001-0003": "4 fields where 3 are expected"}


def test_rows_in_another_language_are_dropped(tmp_path):
    row = '{"audio": {"path": "a.wav"}, "sentence": "x", "language": "%s"}\n'
    put(tmp_path / "train.jsonl", row % "Hindi" + row % "Tamil")
    assert list(faults(tmp_path).values()) == ["row in another language (ta)"]
    put(tmp_path / "train.jsonl", row % "Tamil")
    with pytest.raises(UsageError, match=r"row in another language \(ta\)"):
        check_corpus(tmp_path, "hi")


@pytest.mark.parametrize(
    "audio", ['"audio_filepath": "a.wav", "text"', '"audio": {"path": "a.wav"}, "sentence"']
)
def test_a_line_that_is_no_json_is_dropped_alone(tmp_path, audio):
    put(tmp_path / "a.wav", sound(1))
    good = f'{{{audio}: "{ONE}"}}\n'
    put(tmp_path / "train.jsonl", good + '{"audio": \n[1]\n' + good)
    assert faults(tmp_path) == {
        "train.jsonl row 2": "line that is not JSON",
        "train.jsonl row 3": "line that is not a JSON object",
    }
    assert len(open_corpus(tmp_path, "hi").entries) == 4


def test_a_row_without_a_file_is_named_by_its_number(tmp_path):
    put(tmp_path / "a.wav", sound(1))
    good = f'{{"audio_filepath": "a.wav", "text": "{ONE}"}}\n'
    put(tmp_path / "train.json", good + good + good.replace('"a.wav"', "null"))
    ids = [entry.id for entry in open_corpus(tmp_path, "hi").entries]
    assert ids == ["a.wav", "a.wav#2", "train.json row 3"]


def test_a_zip_behind_a_url_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    expected = sorted(kaldi(folder))
    data = pack_folder(folder, tmp_path / "corpus.zip").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_): ...

    with serving(Handler) as url:
        check_remote(f"{url}/corpus.zip")
        path = local_copy(f"{url}/corpus.zip")
    assert heard(path) == expected


def test_text_of_a_type_that_is_no_text_is_named(tmp_path):
    put(tmp_path / "m.json", '{"audio_filepath": "a.wav", "text": {"raw": "x"}, "duration": 1}')
    assert faults(tmp_path / "m.json") == {"a.wav": "text that is a JSON object"}


def test_a_json_file_may_be_one_list(tmp_path):
    put(tmp_path / "a.wav", sound(1))
    put(tmp_path / "m.json", f'[{{"audio_filepath": "a.wav", "text": "{ONE}", "duration": 0.5}}]')
    assert heard(tmp_path / "m.json") == [Heard(1, ONE, "", "train")]


def test_audio_and_transcripts_that_stand_alone_are_counted(tmp_path):
    put(tmp_path / "a.wav", sound(1))
    put(tmp_path / "a.txt", ONE)
    put(tmp_path / "alone.wav", sound(2))
    put(tmp_path / "silent.srt", "1\n00:00:00,000 --> 00:00:01,000\nx\n")
    put(tmp_path / "odd.wav", sound(3))
    put(tmp_path / "odd.eaf", "<html/>")
    assert faults(tmp_path) == {
        "alone.wav": "no transcript beside it",
        "silent.srt": "transcript without audio",
        "odd.wav": "transcript that is not eaf (no ELAN document)",
    }


def test_a_tier_is_chosen_by_its_name(tmp_path):
    tiers = {"gloss": [(0, 1, "we saw")], "hindi": [(0, 1, ONE), (1, 2, TWO)]}
    put(tmp_path / "a.wav", recording([1, 2]))
    put(tmp_path / "a.TextGrid", textgrid(tiers))
    assert heard(tmp_path, {"text": "hindi"}) == [
        Heard(1, ONE, "", "train"),
        Heard(2, TWO, "", "train"),
    ]


def test_a_short_textgrid_is_read_like_a_long_one(tmp_path):
    lines = ['File type = "ooTextFile short"', '"TextGrid"', "", "0", "1", "<exists>", "1"]
    lines += ['"IntervalTier"', '"text"', "0", "1", "1", "0", "1", f'"{ONE}"']
    put(tmp_path / "a.wav", sound(1, 1.0))
    put(tmp_path / "a.TextGrid", "\n".join(lines))
    assert heard(tmp_path) == [Heard(1, ONE, "", "train")]


def test_unassigned_spontaneous_speech_is_all_for_training(tmp_path):
    spontaneous(tmp_path)
    table = tmp_path / "sps-corpus-3.0-2026-03-09-hi" / "ss-corpus-hi.tsv"
    text = table.read_text("utf-8").replace("\ttrain\t", "\t\t").replace("\ttest\t", "\t\t")
    table.write_text(text, "utf-8")
    assert open_corpus(tmp_path, "hi").splits == {"train": 3}


def test_a_saved_data_set_may_name_its_files(tmp_path):
    import datasets

    put(tmp_path / "1.wav", sound(1))
    made = datasets.Dataset.from_dict({"audio": [str(tmp_path / "1.wav")], "text": [ONE]})
    made = made.cast_column("audio", datasets.Audio(decode=False))
    made.save_to_disk(tmp_path / "speech")
    assert heard(tmp_path / "speech") == [Heard(1, ONE, "", "train")]


def test_columns_of_parquet_are_mapped_or_named(tmp_path):
    made = dataset([1], [ONE]).rename_columns({"audio": "sound", "transcription": "said"})
    path = tmp_path / "speech.parquet"
    made.to_parquet(path)
    with pytest.raises(CorpusError, match=r"no column text or .*sound, said.*--map text=NAME"):
        check_corpus(path, "hi")
    assert heard(path, {"text": "said"}) == [Heard(1, ONE, "1", "train")]
    path.write_bytes(path.read_bytes()[:-100])
    for look in (check_corpus, open_corpus):
        with pytest.raises(CorpusError, match="is not a whole Parquet file") as caught:
            look(path, "hi")
        assert "\n" not in str(caught.value)


def test_configurations_of_other_languages_are_left_out(tmp_path):
    for locale, number in (("hi_in", 1), ("ta_in", 2)):
        (tmp_path / locale / "train").mkdir(parents=True)
        dataset([number], [ONE]).to_parquet(tmp_path / locale / "train" / "0000.parquet")
    assert heard(tmp_path) == [Heard(1, ONE, "1", "train")]


def test_names_of_the_mozilla_data_collective_are_found(tmp_path):
    for name in (
        "mcv-scripted-hi-v23.0.tar.gz",
        "mcv-scripted-hi-v24.0.tar.gz",
        "mcv-scripted-zh-TW-v24.0.tar.gz",
        "mcv-spontaneous-ta-v1.0.tar.gz",
    ):
        (tmp_path / name).touch()
    assert find_corpus(tmp_path, "hi").name == "mcv-scripted-hi-v24.0.tar.gz"
    assert find_corpus(tmp_path, "zh").name == "mcv-scripted-zh-TW-v24.0.tar.gz"
    assert find_corpus(tmp_path, "ta").name == "mcv-spontaneous-ta-v1.0.tar.gz"


def test_a_clip_of_an_entry_has_all_its_fields(tmp_path):
    kaldi(tmp_path)
    corpus = open_corpus(tmp_path, "hi")
    entry = next(entry for entry in corpus.entries if entry.id == "train-2")
    clip = Clip.of(entry, b"")
    assert (clip.start, clip.end, clip.speaker, clip.split) == (1.0, 2.0, "s2", "train")


def test_tiers_of_translations_and_notes_are_no_transcripts(tmp_path):
    put(tmp_path / "a.wav", sound(1))
    tiers = {"ravi": ONE, "translation": "one", "English": "one", "Notes": "a cough"}
    put(tmp_path / "a.TextGrid", textgrid({name: [(0, 0.5, it)] for name, it in tiers.items()}))
    assert heard(tmp_path) == [Heard(1, ONE, "", "train")]
    tiers = {"Hindi": ONE, "ravi": TWO}
    put(tmp_path / "a.TextGrid", textgrid({name: [(0, 0.5, it)] for name, it in tiers.items()}))
    assert heard(tmp_path) == [Heard(1, ONE, "", "train")]
    words = {"ravi - words": [(0, 0.2, ONE), (0.2, 0.5, TWO)], "anita - words": [(0, 0.5, THREE)]}
    put(tmp_path / "a.TextGrid", textgrid(words))
    found = [(it.speaker, it.text) for it in open_corpus(tmp_path, "hi").entries]
    assert found == [("ravi", f"{ONE} {TWO}"), ("anita", THREE)]


def test_labels_of_audacity_lab_files_and_codes_in_names_are_read(tmp_path):
    for number in (1, 2, 3):
        put(tmp_path / f"{number}.wav", sound(number))
    put(tmp_path / "1.txt", f"0.000000\t0.250000\t{ONE}\n\\\t100\t200\n0,25\t0.5\t{TWO}\n")
    put(tmp_path / "2.lab", TWO)
    put(tmp_path / "3.en.vtt", "WEBVTT\n\n00:00.000 --> 00:00.500\nthree\n")
    put(tmp_path / "3.hi.vtt", f"WEBVTT\n\n00:00.000 --> 00:00.500\n{THREE}\n")
    assert heard(tmp_path) == [
        Heard(1, TWO, "", "train"),
        Heard(1, ONE, "", "train"),
        Heard(2, TWO, "", "train"),
        Heard(3, THREE, "", "train"),
    ]
    put(tmp_path / "2.lab", "0 5000000 two\n")
    assert faults(tmp_path) == {
        "2.wav": "transcript that is not lab (labels of HTK, in units of 100 ns)"
    }
    put(tmp_path / "2.lab", "\n")
    assert faults(tmp_path) == {}


def test_an_utterance_in_two_kaldi_folders_is_counted(tmp_path):
    for split in ("train", "test"):
        put(tmp_path / split / "wav.scp", "u1 ../a.wav\n")
        put(tmp_path / split / "text", f"u1 {ONE}\n")
    corpus = open_corpus(tmp_path, "hi")
    assert (corpus.splits, corpus.repeated) == ({"test": 1}, 1)
