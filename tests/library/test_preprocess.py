"""The first stage, from little corpora to stores."""

import io
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from lorajob import preprocess
from lorajob.corpora.guards import guard_folder
from lorajob.decoding.config import TokenLimits, token_limits
from lorajob.errors import CorpusError, ModelError, StageStopped
from lorajob.job.jobdir import JobDir, hash_files
from lorajob.job.report import Report
from lorajob.spec import build_spec
from lorajob.speech.clipstore import ClipStore
from tests.support.speech import Spoken, make_model, make_release, pack, sound_bytes, tone

LINES = [
    *[Spoken(f"t{n}.mp3", f"वाक्य {n}", f"s{n % 3}", "train", 0.5 + n / 20) for n in range(6)],
    Spoken("d0.mp3", "हमने  देखा ", "s4", "dev"),
    Spoken("x0.mp3", "परीक्षा", "s5", "test"),
    Spoken("x1.mp3", "फिर से", "s6", "test"),
]
SPOILT = [
    Spoken("long.mp3", "लंबा", split="train", seconds=31),
    Spoken("short.mp3", "छोटा", split="train", seconds=0.1),
    Spoken("gone.mp3", "कहाँ", split="train", seconds=0),
    Spoken("silent.mp3", " … ", split="test"),
    Spoken("many.mp3", "a" * 444, split="train"),
    Spoken("many.mp3.fits.mp3", "a" * 443, split="train"),
]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("LORAJOB_CACHE_GB", "0")


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "model", "hi")


@pytest.fixture
def run(tmp_path, model):
    def run(corpus, attempt=1, stream=None, **config):
        out = tmp_path / f"out-{attempt}"
        out.mkdir()
        spec = build_spec(
            {
                "language": "hi",
                "corpus": str(corpus),
                "base_model": str(model),
                "preprocess": config,
            }
        )
        report = Report("preprocess", stream or io.StringIO())
        return preprocess.run(spec, JobDir(tmp_path), out, attempt, report), out

    return run


def report_of(out):
    return json.loads((out / "report.json").read_text("utf-8"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_release_becomes_a_store_for_training_and_one_for_testing(tmp_path, run, packed):
    root = make_release(tmp_path, LINES)
    result, out = run(pack(root, tmp_path / "r.tar.gz") if packed else root)
    train, test = ClipStore(out / "train"), ClipStore(out / "test")
    assert sorted(train.ids) == ["d0.mp3", *(f"t{n}.mp3" for n in range(6))]
    assert sorted(test.ids) == ["x0.mp3", "x1.mp3"]
    index = train.ids.index("d0.mp3")
    assert train.texts[index] == "हमने देखा"
    assert train.speakers[index] == "s4"
    assert train.tokens[index] == len("हमने देखा".encode()) + 1
    assert train.seconds[index] == pytest.approx(1.0, abs=0.1)
    assert np.abs(train.audio(index)).max() == pytest.approx(0.3, abs=0.05)
    assert (result.train_clips, result.test_clips, result.dropped) == (7, 2, {})
    assert result.train_hours == pytest.approx(train.seconds.sum() / 3600, rel=1e-4)
    assert result.bytes == sum(path.stat().st_size for path in out.glob("*/*.arrow"))


def test_what_cannot_be_used_is_dropped_counted_and_named(tmp_path, run):
    root = make_release(tmp_path, [*LINES, *SPOILT])
    (root / "clips" / "t0.mp3").write_bytes(b"no mp3")
    result, out = run(root)
    assert result.dropped == {
        "text empty after normalising": 1,
        "too long, over 30 s": 1,
        "over 444 label tokens": 1,
        "under 0.3 s": 1,
        "not audio": 1,
        "not found": 1,
    }
    report = report_of(out)
    gone = report["dropped"]["not found"]
    assert gone["examples"] == ["gone.mp3"]
    assert gone["example"] == f"gone.mp3: {root}/clips/gone.mp3"
    assert report["dropped"]["not audio"]["example"] == "t0.mp3: begins with 'no mp3'"
    assert report["rows"] == {"read": 15, "kept": 9, "dropped": 6, "unused": {}}
    assert result.examples["not found"] == gone["example"]
    assert report["dropped"]["over 444 label tokens"]["examples"] == ["many.mp3"]
    assert report["splits"]["test"]["dropped"] == {"text empty after normalising": 1}
    train = ClipStore(out / "train")
    assert train.tokens.max() == 444
    assert not {"long.mp3", "short.mp3", "gone.mp3", "many.mp3", "t0.mp3"} & set(train.ids)


def test_the_report_tells_hours_speakers_and_lengths(tmp_path, run):
    result, out = run(make_release(tmp_path, [*LINES, Spoken("y.mp3", "वाक्य 1", "s1", "test")]))
    report = report_of(out)
    assert report["language"] == "hi"
    assert report["test_by"] == "split"
    assert report["splits"]["train"]["speakers"] == 4
    assert report["splits"]["train"]["clips"] == 7
    percentiles = report["splits"]["train"]["seconds_percentiles"]
    assert list(percentiles) == ["0", "5", "25", "50", "75", "95", "100"]
    assert percentiles["0"] < percentiles["50"] < percentiles["100"]
    assert report["in_both"] == {"speakers": 1, "texts": 1}
    assert report["test_clips_in_both"] == {"clips_of_speakers": 1, "clips_of_texts": 1}
    assert report["shared"] == {"speakers": ["s1"], "clips_of_texts": ["y.mp3"]}
    train = ClipStore(out / "train")
    limits = TokenLimits.model_validate(report["token_limits"])
    assert limits == token_limits(train.tokens, train.seconds)
    assert report["bytes"] == result.bytes


def test_examples_of_a_reason_are_at_most_twenty(tmp_path, run):
    lines = [Spoken(f"gone{n}.mp3", "कहाँ", seconds=0) for n in range(25)]
    _, out = run(make_release(tmp_path, [*LINES, *lines]))
    unreadable = report_of(out)["dropped"]["not found"]
    assert unreadable["clips"] == 25
    assert len(unreadable["examples"]) == 20


def test_a_second_run_writes_the_same_bytes(tmp_path, run):
    path = pack(make_release(tmp_path, [*LINES, *SPOILT]), tmp_path / "r.tar.gz")
    first, second = run(path, 1)[1], run(path, 2)[1]
    names = sorted(file.relative_to(first) for file in first.rglob("*") if file.is_file())
    assert len(names) == 4
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_manifest_without_a_test_split_gets_one_by_speaker(tmp_path, run):
    rows = ["audio\ttext\tspeaker"]
    for number in range(20):
        name = f"{number}.wav"
        sound = tone(0.5, hertz=300 + 20 * number)
        (tmp_path / name).write_bytes(sound_bytes(sound, 16_000))
        rows.append(f"{name}\tशब्द {number}\ts{number % 10}")
    (tmp_path / "m.tsv").write_text("\n".join(rows), "utf-8")
    result, out = run(tmp_path / "m.tsv", test_share=0.2)
    assert (result.train_clips, result.test_clips) == (16, 4)
    assert report_of(out)["test_by"] == "speaker"
    assert report_of(out)["in_both"]["speakers"] == 0
    again, _ = run(tmp_path / "m.tsv", attempt=2, test_share=0.2)
    assert again == result


def test_limits_take_a_sample_of_each_set(tmp_path, run):
    root = make_release(tmp_path, LINES)
    result, out = run(root, max_train_clips=3, max_test_clips=1)
    assert (result.train_clips, result.test_clips) == (3, 1)
    assert (
        ClipStore(out / "train").ids == ClipStore(run(root, 2, max_train_clips=3)[1] / "train").ids
    )


def test_splits_limits_and_format_are_the_jobs_to_choose(tmp_path, run):
    root = make_release(tmp_path, LINES)
    result, out = run(
        root, train_splits=["train"], test_split="dev", min_seconds=0.6, audio_format="pcm16"
    )
    assert result.test_clips == 1
    assert result.dropped == {"under 0.6 s": 2}
    samples = ClipStore(out / "test").audio(0)
    assert len(samples) == pytest.approx(16_000, rel=0.1)


def test_a_corpus_with_nothing_usable_fails_with_the_counts(tmp_path, run):
    lines = [Spoken(f"gone{n}.mp3", "कहाँ", seconds=0) for n in range(3)]
    lines += [Spoken("e.mp3", "?", split="train"), LINES[-1]]
    counts = "has no usable train clip: 3 not found, 1 text empty after normalising"
    message = counts + r"; not found: \S+/clips/gone0\.mp3$"
    with pytest.raises(CorpusError, match=message):
        run(make_release(tmp_path, lines))
    lines = [*LINES[:6], Spoken("e.mp3", "?", split="test")]
    with pytest.raises(
        CorpusError, match=r"has no usable test clip: 1 text empty after normalising$"
    ):
        run(make_release(tmp_path / "second", lines), attempt=2)


def test_splits_that_hold_nothing_are_named_with_those_there_are(tmp_path, run):
    root = make_release(tmp_path, [Spoken("a.mp3", "एक", split="validated")])
    with pytest.raises(CorpusError, match=r"no clips in train, dev; .*: validated \(1\)$"):
        run(root)
    (tmp_path / "m.csv").write_text("audio,text\na.wav,एक\n", "utf-8")
    with pytest.raises(CorpusError, match=r"^preprocess\.test_share: 0\.1 of 1 clips"):
        run(tmp_path / "m.csv", attempt=2)


def test_progress_is_told_and_ends_at_the_total(tmp_path, run):
    stream = io.StringIO()
    run(make_release(tmp_path, LINES), stream=stream)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert 1 <= len(events) <= 9
    assert (events[-1]["step"], events[-1]["total"]) == (9, 9)
    assert events[-1]["eta_seconds"] == pytest.approx(0)


@pytest.mark.parametrize("packed", [False, True])
def test_a_stop_ends_the_stage(tmp_path, model, packed):
    root = make_release(tmp_path, LINES)
    path = pack(root, tmp_path / "r.tar.gz") if packed else root
    spec = build_spec({"language": "hi", "corpus": str(path), "base_model": str(model)})
    report = Report("preprocess", io.StringIO())
    report.stop_requested = True
    with pytest.raises(StageStopped):
        preprocess.run(spec, JobDir(tmp_path), tmp_path / "out", 1, report)


def test_a_base_model_without_the_language_is_named(tmp_path):
    model = make_model(tmp_path / "model", "en")
    spec = build_spec({"language": "hi", "corpus": str(tmp_path), "base_model": str(model)})
    with pytest.raises(ModelError, match=r"<\|hi\|>"):
        preprocess.run(spec, JobDir(tmp_path), tmp_path, 1, Report("preprocess", io.StringIO()))


@pytest.mark.parametrize("packed", [False, True])
def test_a_second_job_on_the_same_corpus_reads_no_audio(tmp_path, run, monkeypatch, caplog, packed):
    caplog.set_level("INFO")
    monkeypatch.setattr("lorajob.storage.places.cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("LORAJOB_CACHE_GB", "1")
    corpus = make_release(tmp_path / "corpus", LINES)
    corpus = pack(corpus, tmp_path / "corpus.tar.gz") if packed else corpus
    first, out = run(corpus)
    assert "as an earlier job read it" not in caplog.text
    monkeypatch.setattr(
        "lorajob.speech.audio.load_audio", lambda *_: pytest.fail("audio was decoded again")
    )
    again, copy = run(corpus, attempt=2)
    assert "as an earlier job read it" in caplog.text
    assert again == first
    assert hash_files(copy) == hash_files(out)


def test_the_corpora_of_the_gate_are_read_into_stores_of_their_own(tmp_path, model, monkeypatch):
    monkeypatch.setattr("lorajob.storage.places.cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("LORAJOB_CACHE_GB", "1")
    corpus = make_release(tmp_path / "corpus", LINES)
    calls = tmp_path / "calls"
    calls.mkdir()
    rows = ["audio\ttext\tspeaker"]
    for n in range(4):
        (calls / f"{n}.wav").write_bytes(sound_bytes(tone(1.0, hertz=300 + 50 * n), 16_000))
        rows.append(f"{n}.wav\tcall number {n}\ts{n}")
    (calls / "calls.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    given = {"language": "hi", "corpus": str(corpus), "base_model": str(model)}
    given |= {"text": {"digits": "spell"}}
    guards = [
        {"corpus": str(calls / "calls.tsv"), "language": "English", "clips": 3},
        {"corpus": str(corpus)},
    ]
    spec = build_spec(given | {"gate": {"corpora": guards}})
    outs = [tmp_path / "first", tmp_path / "second"]
    for out in outs:
        out.mkdir()
        preprocess.run(spec, JobDir(tmp_path), out, 1, Report("preprocess", io.StringIO()))
    first, second = (ClipStore(guard_folder(outs[0], number)) for number in (1, 2))
    assert len(first) == 3 and {*first.texts} < {f"call number {n}" for n in range(4)}
    # Numbers become words in the job's language alone.
    assert "वाक्य तीन" in ClipStore(outs[0] / "train").texts
    assert json.loads((outs[0] / "report.json").read_text())["text"]["digits"] == "spell"
    # Of a corpus with a test split, that split is used.
    assert sorted(second.texts) == ["परीक्षा", "फिर से"]
    assert hash_files(outs[0]) == hash_files(outs[1])
    empty = tmp_path / "empty.tsv"
    empty.write_text("audio\ttext\nmissing.wav\tcall\n", "utf-8")
    spec = build_spec(given | {"gate": {"corpora": [{"corpus": str(empty)}]}})
    with pytest.raises(CorpusError, match=r"gate.corpora: .*empty.tsv has no usable clip: 1 "):
        preprocess.run(
            spec, JobDir(tmp_path), tmp_path / "third", 1, Report("preprocess", io.StringIO())
        )


@pytest.mark.parametrize("change", ["audio", "text", "setting"])
def test_what_differs_is_read_anew(tmp_path, run, monkeypatch, caplog, change):
    caplog.set_level("INFO")
    monkeypatch.setattr("lorajob.storage.places.cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("LORAJOB_CACHE_GB", "1")
    corpus = make_release(tmp_path / "corpus", LINES)
    run(corpus)
    settings = {}
    if change == "audio":
        clip = next(corpus.rglob("*.mp3"))
        clip.write_bytes(clip.read_bytes() + b"more")
    elif change == "text":
        table = corpus / "test.tsv"
        table.write_text(table.read_text("utf-8").replace("फिर", "और"), "utf-8")
    else:
        settings = {"max_seconds": 9}
    run(corpus, attempt=2, **settings)
    assert "as an earlier job read it" not in caplog.text


@pytest.mark.parametrize("kind", ["folder", "tar.gz", "zip"])
def test_every_row_is_kept_or_counted_by_its_true_reason(tmp_path, run, kind):
    """Planted faults of each kind, in a corpus of every sort that a reader opens."""
    root = tmp_path / "corpus"
    root.mkdir()
    good = sound_bytes(tone(1.0), 16_000)
    clipped = np.clip(tone(1.0) * 10, -1, 1)
    mostly = np.concatenate([tone(0.04), np.zeros(16_000 * 2, np.float32)])
    files = {
        **{f"g{n}.wav": good for n in range(4)},
        "cut.wav": good[: len(good) // 2],
        "zero.wav": sound_bytes(tone(1.0) * 0, 16_000),
        "text.wav": b"no sound, but text",
        "empty.wav": b"",
        "clipped.wav": sound_bytes(clipped, 16_000),
        "mostly.wav": sound_bytes(mostly, 16_000),
        unicodedata.normalize("NFD", "é.wav"): good,
    }
    for name, data in files.items():
        (root / name).write_bytes(data)
    for name in ("a b.wav", "upper.WAV", "plain.flac", "Case.wav", "one.wav", "One.wav"):
        (root / name).write_bytes(good)
    names = [*files, "gone.wav"]
    rows = [f"{unicodedata.normalize('NFC', name)}\tशब्द\ttrain" for name in names]
    rows += ["g0.wav\t...\ttrain", "g1.wav\tone\ttwo\ttrain", "g2.wav\ta\0b\ttrain"]
    rows += ["g3.wav\tबात \N{REPLACEMENT CHARACTER}\ttrain", "g0.wav\tबात\ttest"]
    rows += ["g1.wav\tबात\tholdout"] * 2
    # Other spellings of a name, and one that may mean either of two files.
    others = ["a%20b.wav", "upper.wav", "plain", "cASE.wav"]
    others += [(root / "a b.wav").as_uri()] if kind == "folder" else ["./a b.wav"]
    rows += [f"{name}\tबात\ttrain" for name in (*others, "oNE.wav")]
    (root / "manifest.tsv").write_text("\n".join(["audio\ttext\tsplit", *rows]), "utf-8")
    path = root
    if kind != "folder":
        path = Path(shutil.make_archive(str(root), {"zip": "zip"}.get(kind, "gztar"), root))
    result, out = run(path, allow_leakage=True)
    assert result.dropped == {
        "4 fields where 3 are named": 1,
        "NUL character": 1,
        "not audio": 2,
        "not found": 2,
        "silent": 1,
        "text empty after normalising": 1,
        "text with characters that an earlier conversion lost (U+FFFD)": 1,
        "truncated": 1,
    }
    assert result.noted == {"clipped": 1, "over 95 % silent": 1}
    assert result.unused == {"in split holdout": 2}
    assert (result.train_clips, result.test_clips) == (12, 1)
    counts = report_of(out)["rows"]
    assert counts["read"] == len(rows) == counts["kept"] + counts["dropped"] + 2
    assert set(result.examples) == {*result.dropped, *result.noted}
    assert result.examples["4 fields where 3 are named"] == f"manifest.tsv line {len(names) + 3}"


def test_a_recording_in_train_and_test_is_refused_unless_it_is_allowed(tmp_path, run):
    root = make_release(tmp_path, LINES)
    shutil.copy(root / "clips" / "t3.mp3", root / "clips" / "x1.mp3")
    with pytest.raises(CorpusError) as refused:
        run(root)
    assert str(refused.value) == (
        "corpus: 1 training clip with the recording of a test clip, such as t3.mp3 (as x1.mp3 of"
        " test); write a corpus without them by `lorajob corpus check CORPUS --lang hi --fix OUT`,"
        " or give --allow-leakage"
    )
    result, out = run(root, 2, allow_leakage=True)
    assert (result.train_clips, result.test_clips) == (7, 2)
    check = json.loads((out / "check.json").read_text("utf-8"))
    (leak,) = [it for it in check["findings"] if it["name"] == "same-recording"]
    assert (leak["level"], leak["count"]) == ("warning", 1)


def test_the_check_is_kept_with_the_clips(tmp_path, run):
    _, out = run(make_release(tmp_path, [*LINES, *SPOILT]))
    check = json.loads((out / "check.json").read_text("utf-8"))
    assert (check["format"], check["quick"], check["errors"]) == (1, False, 0)
    report = report_of(out)
    dropped = {it["says"].rpartition(": ")[2]: it["count"] for it in check["findings"]
               if it["name"] == "dropped"}  # fmt: skip
    assert dropped == {name: it["clips"] for name, it in report["dropped"].items()}
    assert check["splits"]["test"]["clips"] == 3
