"""`lorajob transcribe` for people: folders, patterns, formats, word times, the base beside it."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lorajob.cli.audio_files import audio_files
from lorajob.cli.main import main
from lorajob.cli.transcript_formats import render_transcript
from lorajob.speech.spoken import FileTranscript, Passage, TimedWord

RATE = 16_000


def tone(path: Path, hertz: float = 300, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), RATE)
    return path


@pytest.fixture
def talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with audio, below the current one."""
    folder = tmp_path / "talks"
    tone(folder / "a.wav")
    tone(folder / "a.flac", 400)
    tone(folder / "day 2" / "b.WAV", 500)
    (folder / "notes.txt").write_text("no audio")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def job(finished_job: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LORAJOB_ARTIFACTS", str(finished_job.parent))
    return finished_job.name


def named(*arguments: str) -> list[tuple[str, str]]:
    with audio_files(arguments) as files:
        return [(it.shown, it.output) for it in files]


def test_folders_and_patterns_name_audio_files_each_once(talks: Path) -> None:
    inside = [
        ("talks/a.flac", "a.flac"),
        ("talks/a.wav", "a.wav"),
        ("talks/day 2/b.WAV", "day 2/b"),
    ]
    assert named("talks") == inside
    assert named("talks/*.wav", "talks/a.wav") == [("talks/a.wav", "a")]
    assert named("talks/**/*.WAV") == [("talks/day 2/b.WAV", "b")]
    tone(talks / "[1].wav")
    assert named("talks/[1].wav") == [("talks/[1].wav", "[1]")]
    tone(talks.parent / "more" / "a.wav")
    assert [it for _, it in named("talks/a.wav", "more/a.wav")] == ["a.wav", "a.wav-2"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["missing.wav"], "AUDIO: missing.wav does not exist"),
        (["none/*.wav"], "AUDIO: none/*.wav matches no file"),
        (["empty"], "AUDIO: empty has no audio files"),
        (["talks", "--output-format", "srt,doc"], "'doc' is unknown; allowed: txt, srt, vtt"),
        (["talks", "--output-format", "all"], "several formats need --output-dir"),
        (["talks", "--json", "--output-format", "srt"], "--json: prints to standard output"),
        (["talks", "--word-times"], "are part of json; add --output-format json, or --json"),
        (["talks", "--base", "--output-format", "srt"], "--base: with --output-format it needs"),
        (["talks", "--glossary", "none.txt"], "--glossary: 'none.txt' does not exist"),
        (["talks", "--glossary", "talks"], "--glossary: 'talks' is a folder"),
        (
            ["talks", "--glossary", "~no-user/a"],
            "--glossary: '~no-user/a' begins with the home of an unknown user",
        ),
        (["~no-user/a.wav"], "AUDIO: ~no-user/a.wav begins with the home of an unknown user"),
        (["talks", "--glossary", "talks/a.wav"], "talks/a.wav: line 1 is not UTF-8"),
        (["-", "--glossary", "-"], "--glossary: standard input is the audio"),
    ],
)
def test_a_wrong_request_is_one_line(
    talks: Path, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (talks.parent / "empty").mkdir()
    assert main(["transcribe", "hi-1a2b3c4d", *arguments]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


def spoken() -> FileTranscript:
    words = [("पानी", 0.0, 0.5), ("ठंडा", 0.6, 1.0), ("है।", 1.1, 1.5), ("A<b", 3.0, 3.25)]
    timed = tuple(TimedWord(word=it, start=start, end=end) for it, start, end in words)
    text = "पानी ठंडा है। A<b"
    return FileTranscript(Path("a.wav"), 4.0, text, (Passage(0.0, 4.0, text, timed),))


def test_formats_are_those_of_other_tools() -> None:
    heard = spoken()
    made = {it: render_transcript(heard, it, "hi", "a.wav", True) for it in ("srt", "vtt", "tsv")}
    assert made["srt"] == (
        "1\n00:00:00,000 --> 00:00:01,500\nपानी ठंडा है।\n\n2\n00:00:03,000 --> 00:00:03,250\nA<b\n\n"
    )
    assert made["vtt"].startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nपानी ठंडा है।\n\n")
    assert made["vtt"].endswith("A&lt;b\n\n")
    assert made["tsv"] == "start\tend\ttext\n0\t1500\tपानी ठंडा है।\n3000\t3250\tA<b\n"
    assert render_transcript(heard, "txt", "hi", "a.wav", False) == "पानी ठंडा है। A<b\n"
    values = json.loads(render_transcript(heard, "json", "hi", "a.wav", True))
    assert (values["text"], values["language"], values["duration"]) == (heard.text, "hi", 4.0)
    assert [it["text"] for it in values["segments"]] == ["पानी ठंडा है।", "A<b"]
    assert values["segments"][1]["words"] == [{"word": "A<b", "start": 3.0, "end": 3.25}]
    without = json.loads(render_transcript(heard, "json", "hi", "a.wav", False))
    assert "words" not in without["segments"][0]


def test_a_folder_becomes_files_of_each_format(
    talks: Path, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", job, "talks", "-o", "out", "--output-format", "all"]) == 0
    out = talks.parent / "out"
    names = {it.relative_to(out).as_posix() for it in out.rglob("*") if it.is_file()}
    assert main(["transcribe", job, "talks", "--output-format", "srt"]) == 2
    assert "--output-format: 3 files need --output-dir" in capsys.readouterr().err
    stems = ("a.flac", "a.wav", "day 2/b")
    assert names == {
        f"{it}.{kind}" for it in stems for kind in ("txt", "srt", "vtt", "json", "tsv")
    }
    assert capsys.readouterr().out == ""
    values = json.loads((out / "a.wav.json").read_text())
    assert main(["transcribe", job, "talks/a.wav"]) == 0
    text = capsys.readouterr().out.strip()
    assert text == values["text"] == (out / "a.wav.txt").read_text().strip() and text
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n", (out / "a.wav.srt").read_text())


def test_a_file_that_is_no_audio_is_named_and_the_others_are_heard(
    talks: Path, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", job, "talks/notes.txt", "talks/a.wav", "--json"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("lorajob: talks/notes.txt: cannot be transcribed: ")
    (line,) = said.out.splitlines()
    assert json.loads(line)["audio"] == "talks/a.wav"


def test_standard_input_and_word_times(
    talks: Path, job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = io.BytesIO((talks / "a.wav").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    Path("terms.txt").write_text("Nairobi\tnairobee\n")
    options = ("--json", "--word-times", "--glossary", "terms.txt")
    assert main(["transcribe", job, "-", *options]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["audio"] == "-" and values["seconds"] == 1.0
    assert values["glossary_terms"] == []
    assert values["words"] and all(0 <= it["start"] <= it["end"] <= 1 for it in values["words"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert main(["transcribe", job, "-"]) == 2
    assert "standard input is empty" in capsys.readouterr().err


def test_the_base_model_is_heard_beside_it(
    talks: Path, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", job, "talks/a.wav", "--base"]) == 0
    base, tuned = capsys.readouterr().out.splitlines()
    assert base.startswith("base:  ") and tuned.startswith("tuned: ")
    assert base.partition(":")[2].strip() != tuned.partition(":")[2].strip()
    assert main(["transcribe", job, "talks/a.wav", "--base", "-o", "out"]) == 0
    assert {it.name for it in Path("out").iterdir()} == {"a.txt", "a.base.txt"}
    assert Path("out/a.base.txt").read_text().strip() == base.partition(":")[2].strip()
