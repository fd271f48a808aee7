"""Tiny corpora in the published layouts of others, and what is said in them.

Sound n is a tone of 300 + 100 n Hz. What is heard is (sound, text, speaker, split).
"""

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tests.support.speech import sound_bytes, tone

if TYPE_CHECKING:
    import datasets

ONE, TWO, THREE = "हमने देखा", 'उसने कहा "चलो", फिर', "नहीं"


class Heard(NamedTuple):
    """A clip as it is expected."""

    sound: int
    text: str
    speaker: str
    split: str


class Layout(NamedTuple):
    """`make` writes a corpus into a folder and returns what is heard in it."""

    make: Callable[[Path], list[Heard]]
    reader: str


def sound(number: int, seconds: float = 0.5, kind: str = "WAV") -> bytes:
    return sound_bytes(tone(seconds, 16_000, 300 + 100 * number), 16_000, kind)


def recording(numbers: list[int], kind: str = "WAV") -> bytes:
    """One second of each sound, one after another."""
    tones = [tone(1.0, 16_000, 300 + 100 * number) for number in numbers]
    return sound_bytes(np.concatenate(tones), 16_000, kind)


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def ljspeech(root: Path) -> list[Heard]:
    lines = [f"LJ001-0001|{ONE}|{ONE}", f"LJ001-0002|{TWO}|उसने"]
    put(root / "metadata.csv", "\n".join(lines) + "\n")
    put(root / "README", "about it")
    for number in (1, 2):
        put(root / "wavs" / f"LJ001-000{number}.wav", sound(number))
    return [Heard(1, ONE, "", "train"), Heard(2, TWO, "", "train")]


def fleurs(root: Path) -> list[Heard]:
    clips = {"train": (1, ONE), "dev": (2, TWO), "test": (3, THREE)}
    for split, (number, text) in clips.items():
        row = [f"{number}", f"{number}00.wav", f"{text}!", text, "ह म |", "8000", "FEMALE"]
        put(root / "hi_in" / f"{split}.tsv", "\t".join(row) + "\n")
        put(root / "hi_in" / "audio" / split / f"{number}00.wav", sound(number))
    return [Heard(number, text, "", split) for split, (number, text) in clips.items()]


def fleurs_of_the_hub(root: Path) -> list[Heard]:
    heard = fleurs(root)
    audio = root / "hi_in" / "audio"
    for split in ("train", "dev", "test"):
        with tarfile.open(audio / f"{split}.tar.gz", "w:gz") as tar:
            tar.add(audio / split, split)
        for path in (audio / split).iterdir():
            path.unlink()
        (audio / split).rmdir()
    return heard


def librispeech(root: Path) -> list[Heard]:
    heard = []
    for number, (name, split) in enumerate(
        [("train-clean-100", "train"), ("dev-other", "dev"), ("test-clean", "test")], start=1
    ):
        chapter = root / name / f"10{number}" / "1240"
        for line, text in enumerate((ONE, THREE)):
            put(chapter / f"10{number}-1240-000{line}.flac", sound(number + 3 * line, kind="FLAC"))
            heard.append(Heard(number + 3 * line, text, f"10{number}", split))
        lines = [f"10{number}-1240-0000 {ONE}", f"10{number}-1240-0001 {THREE}"]
        put(chapter / f"10{number}-1240.trans.txt", "\n".join(lines) + "\n")
    put(root / "SPEAKERS.TXT", "; ID | SEX\n")
    return heard


def mls(root: Path) -> list[Heard]:
    heard = []
    for number, split in enumerate(("train", "dev", "test"), start=1):
        name = f"{number}7_100_000000"
        put(root / split / "transcripts.txt", f"{name}\t{TWO}\n")
        put(root / split / "segments.txt", f"{name}\thttps://example.org\t1\t2\n")
        put(root / split / "audio" / f"{number}7" / "100" / f"{name}.flac", sound(number))
        heard.append(Heard(number, TWO, f"{number}7", split))
    handles = root / "train" / "limited_supervision" / "9hr"
    put(handles / "handles.txt", "17_100_000000\n")
    put(root / "metainfo.txt", "SPEAKER | GENDER\n")
    return heard


def kaldi(root: Path) -> list[Heard]:
    for split, numbers in (("train", [1, 2]), ("test", [3, 4])):
        data = root / "data" / split
        put(root / "audio" / f"{split}.flac", recording(numbers, "FLAC"))
        # As in a recipe, the path is relative to the folder in which it runs.
        put(data / "wav.scp", f"rec-{split} audio/{split}.flac\n")
        spans = [f"{split}-{n} rec-{split} {at}.00 {at + 1}.00" for at, n in enumerate(numbers)]
        put(data / "segments", "\n".join(spans) + "\n")
        put(data / "text", "".join(f"{split}-{n} {ONE}\n" for n in numbers))
        put(data / "utt2spk", "".join(f"{split}-{n} s{n}\n" for n in numbers))
    return [
        Heard(1, ONE, "s1", "train"),
        Heard(2, ONE, "s2", "train"),
        Heard(3, ONE, "s3", "test"),
        Heard(4, ONE, "s4", "test"),
    ]


def kaldi_of_files(root: Path) -> list[Heard]:
    put(root / "wav.scp", "u1 wavs/1.wav\nu2 wavs/2.wav\n")
    put(root / "text", f"u1 {ONE}\nu2 {THREE}\n")
    for number in (1, 2):
        put(root / "wavs" / f"{number}.wav", sound(number))
    return [Heard(1, ONE, "", "train"), Heard(2, THREE, "", "train")]


def nemo(root: Path) -> list[Heard]:
    put(root / "audio" / "talk.wav", recording([1, 2]))
    put(root / "audio" / "3.wav", sound(3))
    rows = [
        {"audio_filepath": "audio/talk.wav", "duration": 1.0, "offset": 0, "text": ONE},
        {"audio_filepath": "audio/talk.wav", "duration": 1.0, "offset": 1.0, "text": TWO},
    ]
    put(root / "train_manifest.json", "".join(json.dumps(row) + "\n" for row in rows))
    last = {"audio_filepath": "audio/3.wav", "duration": 0.5, "text": THREE, "speaker": "c"}
    put(root / "test_manifest.json", json.dumps(last))
    return [Heard(1, ONE, "", "train"), Heard(2, TWO, "", "train"), Heard(3, THREE, "c", "test")]


def whisper_finetune(root: Path) -> list[Heard]:
    put(root / "dataset" / "1.wav", sound(1))
    put(root / "dataset" / "long.wav", recording([2, *[9] * 34, 3]))
    rows = [
        {
            "audio": {"path": "dataset/1.wav"},
            "sentence": ONE,
            "language": "Hindi",
            "sentences": [{"start": 0, "end": 0.4, "text": ONE}],
            "duration": 0.5,
        },
        {
            "audio": {"path": "dataset/long.wav"},
            "sentence": f"{TWO} {THREE}",
            "sentences": [
                {"start": 0, "end": 1, "text": TWO},
                {"start": 35, "end": 36, "text": THREE},
            ],
            "duration": 36.0,
        },
    ]
    put(root / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return [Heard(1, ONE, "", "train"), Heard(2, TWO, "", "train"), Heard(3, THREE, "", "train")]


def audiofolder(root: Path) -> list[Heard]:
    for split, number in (("train", 1), ("validation", 2), ("test", 3)):
        put(root / "data" / split / "metadata.csv", f"file_name,transcription\na.wav,{ONE}\n")
        put(root / "data" / split / "a.wav", sound(number))
    return [Heard(1, ONE, "", "train"), Heard(2, ONE, "", "dev"), Heard(3, ONE, "", "test")]


def audiofolder_of_one_table(root: Path) -> list[Heard]:
    rows = [("train/1.wav", ONE), ("test/2.wav", TWO)]
    lines = [json.dumps({"file_name": name, "transcription": text}) for name, text in rows]
    put(root / "metadata.jsonl", "\n".join(lines))
    put(root / "train" / "1.wav", sound(1))
    put(root / "test" / "2.wav", sound(2))
    return [Heard(1, ONE, "", "train"), Heard(2, TWO, "", "test")]


def split_tables(root: Path) -> list[Heard]:
    put(root / "train.csv", f"audio,text\nclips/1.wav,{ONE}\n")
    put(root / "test.csv", f"audio,text\nclips/2.wav,{THREE}\n")
    put(root / "clips" / "1.wav", sound(1))
    put(root / "clips" / "2.wav", sound(2))
    return [Heard(1, ONE, "", "train"), Heard(2, THREE, "", "test")]


def spontaneous(root: Path) -> list[Heard]:
    folder = root / "sps-corpus-3.0-2026-03-09-hi"
    rows = [
        "client_id\taudio_id\taudio_file\tduration_ms\tprompt_id\tprompt\ttranscription\tvotes"
        "\tage\tgender\tlanguage\tsplit\tchar_per_sec\tquality_tags"
    ]
    for number, (text, split) in enumerate([(ONE, "train"), (THREE, "test"), (TWO, "")], start=1):
        name = f"spontaneous-speech-hi-{number}.mp3"
        rows.append(f"s{number}\t{number}\t{name}\t500\t7\tकैसे\t{text}\t2\t\t\thi\t{split}\t12.5\t")
        put(folder / "audios" / name, sound(number, kind="MP3"))
    put(folder / "ss-corpus-hi.tsv", "\n".join(rows) + "\n")
    put(folder / "ss-reported-audios-hi.tsv", "audio_id\treason\n")
    heard = [Heard(1, ONE, "s1", "train"), Heard(2, THREE, "s2", "test")]
    return [*heard, Heard(3, TWO, "s3", "other")]


def delta(root: Path) -> list[Heard]:
    folder = root / "cv-corpus-23.0-delta-2025-09-05" / "hi"
    for table, number in (("validated", 1), ("other", 2)):
        name = f"common_voice_hi_{number}.mp3"
        put(folder / f"{table}.tsv", f"client_id\tpath\tsentence\ns{number}\t{name}\t{ONE}\n")
        put(folder / "clips" / name, sound(number, kind="MP3"))
    put(folder / "clip_durations.tsv", "clip\tduration[ms]\n")
    return [Heard(1, ONE, "s1", "train"), Heard(2, ONE, "s2", "other")]


def single_word(root: Path) -> list[Heard]:
    folder = root / "cv-corpus-7.0-singleword" / "hi"
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\tlocale\tsegment"
    for table, number in (("train", 1), ("test", 2)):
        row = f"s{number}\t{number}.mp3\tशून्य\t2\t0\t\t\t\thi\tBenchmark"
        put(folder / f"{table}.tsv", f"{header}\n{row}\n")
        put(folder / "clips" / f"{number}.mp3", sound(number, kind="MP3"))
    return [Heard(1, "शून्य", "s1", "train"), Heard(2, "शून्य", "s2", "test")]


def beside_text(root: Path) -> list[Heard]:
    for split, number in (("train", 1), ("test", 2)):
        put(root / split / f"{number}.wav", sound(number))
        put(root / split / f"{number}.txt", f"\ufeff{ONE}\n")
    put(root / "README.txt", "about it")
    return [Heard(1, ONE, "", "train"), Heard(2, ONE, "", "test")]


TWO_LINES = TWO.replace(", ", ",\n")
SRT = f"""1
00:00:00,000 --> 00:00:01,000
<i>{ONE}</i>

2
00:00:01,000 --> 00:00:02,000
{{\\an8}}{TWO_LINES}
"""
VTT = f"""WEBVTT

NOTE nothing to hear

first
00:00.000 --> 00:01.000 align:start
<v Anita>{ONE}</v>

00:01.000 --> 00:02.000
{TWO}
"""


def beside_subtitles(root: Path) -> list[Heard]:
    put(root / "a.mp3", recording([1, 2], "MP3"))
    put(root / "a.srt", SRT.replace("\n", "\r\n"))
    put(root / "b.flac", recording([3, 4], "FLAC"))
    put(root / "b.vtt", VTT)
    return [
        Heard(1, ONE, "", "train"),
        Heard(2, TWO, "", "train"),
        Heard(3, ONE, "Anita", "train"),
        Heard(4, TWO, "", "train"),
    ]


def textgrid(tiers: dict[str, list[tuple[float, float, str]]]) -> str:
    """A TextGrid as Praat saves it."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", "xmax = 2"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, cues) in enumerate(tiers.items(), start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"']
        lines += [f'        name = "{name}"', "        xmin = 0", "        xmax = 2"]
        lines += [f"        intervals: size = {len(cues)}"]
        for index, (start, end, text) in enumerate(cues, start=1):
            lines += [f"        intervals [{index}]:", f"            xmin = {start}"]
            doubled = text.replace('"', '""')
            lines += [f"            xmax = {end}", f'            text = "{doubled}"']
    return "\n".join(lines) + "\n"


def beside_textgrid(root: Path) -> list[Heard]:
    tiers = {"anita": [(0, 1, ONE), (1, 2, "")], "meena": [(0, 1, ""), (1, 2, TWO)]}
    put(root / "a.wav", recording([1, 2]))
    put(root / "a.TextGrid", textgrid(tiers).encode("utf-16"))
    words = [(0, 0.4, "हमने"), (0.4, 0.9, "देखा"), (0.9, 1.5, ""), (1.5, 2, THREE)]
    put(root / "b.wav", recording([3, 4]))
    put(root / "b.TextGrid", textgrid({"words": words, "phones": words}))
    return [
        Heard(1, ONE, "anita", "train"),
        Heard(2, TWO, "meena", "train"),
        Heard(3, ONE, "", "train"),
        Heard(4, THREE, "", "train"),
    ]


EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2024-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/a.wav" MIME_TYPE="audio/x-wav"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="1000"/>
    <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="1000"/>
    <TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="2000"/>
  </TIME_ORDER>
  <TIER LINGUISTIC_TYPE_REF="utterance" PARTICIPANT="Anita" TIER_ID="ref@A">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>story.001</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
      <ANNOTATION_VALUE>story.002</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="text" PARENT_REF="ref@A" PARTICIPANT="Anita" TIER_ID="tx@A">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a3" ANNOTATION_REF="a1">
      <ANNOTATION_VALUE>ONE</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a4" ANNOTATION_REF="a2">
      <ANNOTATION_VALUE>TWO</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="free" PARENT_REF="ref@A" PARTICIPANT="Anita" TIER_ID="ft@A">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a5" ANNOTATION_REF="a1">
      <ANNOTATION_VALUE>We have seen it</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
"""


def beside_elan(root: Path) -> list[Heard]:
    put(root / "a.wav", recording([1, 2]))
    put(root / "a.eaf", EAF.replace("ONE", ONE).replace("TWO", TWO))
    put(root / "a.pfsx", "<preferences/>")
    return [Heard(1, ONE, "Anita", "train"), Heard(2, TWO, "Anita", "train")]


def audio_rows(numbers: list[int], texts: list[str]) -> dict[str, list[object]]:
    """Columns of a data set whose rows hold the bytes of their audio."""
    audio = [{"bytes": sound(number), "path": f"{number}.wav"} for number in numbers]
    return {"audio": audio, "transcription": [*texts], "speaker_id": [*numbers]}


def dataset(numbers: list[int], texts: list[str]) -> "datasets.Dataset":
    import datasets

    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "transcription": datasets.Value("string"),
            "speaker_id": datasets.Value("int64"),
        }
    )
    # Rows are no Audio yet, because `datasets` encodes audio by a package of its own.
    made = datasets.Dataset.from_dict(audio_rows(numbers, texts), features=features)
    return made.cast_column("audio", datasets.Audio(decode=False))


def saved_to_disk(root: Path) -> list[Heard]:
    import datasets

    splits = {"train": dataset([1, 2], [ONE, TWO]), "validation": dataset([3], [THREE])}
    datasets.DatasetDict(splits).save_to_disk(root / "speech", num_proc=1)
    return [Heard(1, ONE, "1", "train"), Heard(2, TWO, "2", "train"), Heard(3, THREE, "3", "dev")]


def saved_dataset(root: Path) -> list[Heard]:
    dataset([1, 2, 3], [ONE, TWO, THREE]).select([2, 0]).save_to_disk(root / "speech")
    return [Heard(1, ONE, "1", "train"), Heard(3, THREE, "3", "train")]


def parquet_shards(root: Path) -> list[Heard]:
    data = root / "data"
    data.mkdir()
    for shard, (number, text) in enumerate([(1, ONE), (2, TWO)]):
        name = f"train-{shard:05d}-of-00002.parquet"
        dataset([number], [text]).to_parquet(data / name)
    dataset([3], [THREE]).to_parquet(data / "test-00000-of-00001.parquet")
    return [Heard(1, ONE, "1", "train"), Heard(2, TWO, "2", "train"), Heard(3, THREE, "3", "test")]


LAYOUTS = {
    "save_to_disk": Layout(saved_to_disk, "save_to_disk of datasets"),
    "save_to_disk of one": Layout(saved_dataset, "save_to_disk of datasets"),
    "parquet": Layout(parquet_shards, "Parquet"),
    "ljspeech": Layout(ljspeech, "LJSpeech"),
    "fleurs": Layout(fleurs, "FLEURS"),
    "librispeech": Layout(librispeech, "LibriSpeech or MLS"),
    "mls": Layout(mls, "LibriSpeech or MLS"),
    "kaldi": Layout(kaldi, "Kaldi data folder"),
    "kaldi of files": Layout(kaldi_of_files, "Kaldi data folder"),
    "nemo": Layout(nemo, "NeMo manifest"),
    "whisper-finetune": Layout(whisper_finetune, "Whisper-Finetune JSON lines"),
    "audiofolder": Layout(audiofolder, "manifest"),
    "audiofolder of one table": Layout(audiofolder_of_one_table, "manifest"),
    "split tables": Layout(split_tables, "manifest"),
    "spontaneous": Layout(spontaneous, "Common Voice spontaneous speech"),
    "delta": Layout(delta, "Common Voice release"),
    "single word": Layout(single_word, "Common Voice release"),
    "text": Layout(beside_text, "audio beside transcripts"),
    "subtitles": Layout(beside_subtitles, "audio beside transcripts"),
    "textgrid": Layout(beside_textgrid, "audio beside transcripts"),
    "elan": Layout(beside_elan, "audio beside transcripts"),
}


def pack_folder(folder: Path, target: Path) -> Path:
    """The folder as a zip or tar.gz archive, with its own name in front."""
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(target, "w:gz", compresslevel=1) as tar:
            tar.add(folder, folder.name)
    return target
