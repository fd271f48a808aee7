"""Clips that are parts of a recording: cut at their times, decoded once, and dropped beyond it."""

import io
import json
import tracemalloc

import numpy as np
import pytest
import soundfile

from lorajob import preprocess
from lorajob.checking.run import Plan, check_clips
from lorajob.checking.table import open_table
from lorajob.corpora import open_corpus, timed
from lorajob.corpora.packed import pack_corpus
from lorajob.corpora.pieces import pieces
from lorajob.corpora.selection import open_sources
from lorajob.corpora.spans import seconds, span_of
from lorajob.corpora.usable import NO_PAUSE, Wanted, examine
from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.spec import build_spec
from lorajob.speech import segments
from lorajob.speech.audio import AudioError
from lorajob.speech.clipstore import ClipStore
from tests.support.layouts import textgrid
from tests.support.speech import make_model, sound_bytes, tone

# Second n of the recording is a tone of 200 + 50 n Hz.
SECONDS = 20
SPANS = [(0.0, 1.0), (1.0, 2.0), (2.5, 3.0), (7.0, 8.0), (7.25, 8.0), (18.0, 19.0), (19.0, 20.0)]


def recording(rate=16_000, kind="WAV", channels=1, subtype=None) -> bytes:
    mono = np.concatenate([tone(1, rate, 200 + 50 * n) for n in range(SECONDS)])
    samples = np.stack([mono] * channels, axis=1) if channels > 1 else mono
    return sound_bytes(samples, rate, kind, subtype)


def hertz(samples: np.ndarray) -> float:
    """The strongest frequency of samples at 16 kHz."""
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * 16_000 / len(samples))


def check(found, spans, lag=0.0):
    assert len(found) == len(spans)
    for cut, (start, end) in zip(found, spans, strict=True):
        samples = cut.mono()
        assert len(samples) / 16_000 == pytest.approx(end - start, abs=0.03)
        assert hertz(samples[len(samples) // 4 :]) == pytest.approx(200 + 50 * int(start), abs=3)


@pytest.mark.parametrize(
    ("rate", "kind", "channels", "subtype"),
    [
        (16_000, "WAV", 1, "PCM_16"),
        (44_100, "FLAC", 2, None),
        (48_000, "MP3", 1, None),
        (48_000, "OGG", 1, "OPUS"),
        (8_000, "OGG", 1, "VORBIS"),
    ],
)
def test_each_span_is_cut_where_it_lies(rate, kind, channels, subtype):
    check(list(segments.cut(recording(rate, kind, channels, subtype), SPANS, 30)), SPANS)


def test_containers_that_only_ffmpeg_reads_are_cut_too():
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        samples, _ = soundfile.read(io.BytesIO(recording()), dtype="float32")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    check(list(segments.cut(file.getvalue(), SPANS[:6], 30)), SPANS[:6])


def test_a_span_outside_the_recording_has_its_reason():
    spans = [(19.5, 20.05), (19.5, 21.0), (25.0, 26.0), (30.0, None)]
    within, over, *beyond = segments.cut(recording(), spans, 30)
    assert len(within.mono()) == 8_000
    for found in (over, *beyond):
        assert isinstance(found, AudioError) and found.reason == segments.BEYOND
    assert "ends at 21 s of 20.00 s" in str(over)


def test_an_open_end_is_the_recordings_end_and_too_long_is_too_long():
    (rest,) = segments.cut(recording(), [(18.0, None)], 30)
    assert len(rest.mono()) == 32_000
    whole, span = segments.cut(recording(), [(0.0, None), (1.0, 8.0)], 5)
    assert whole.reason == span.reason == "too long, over 5 s"
    (damaged,) = segments.cut(b"RIFF nothing", [(0.0, 1.0)], 30)
    assert damaged.reason == "unreadable audio"


def test_an_open_end_is_too_long_too_if_the_start_moves_to_a_pause():
    samples = tone(20, 16_000)
    samples[round(10.3 * 16_000) : round(10.5 * 16_000)] = 0
    audio = sound_bytes(samples, 16_000)
    (long,) = segments.cut(audio, [(10.0, None)], 5, [(0.5, 0.0)])
    assert isinstance(long, AudioError) and long.reason == "too long, over 5 s"
    (rest,) = segments.cut(audio, [(10.0, None)], 9.8, [(0.5, 0.0)])
    assert len(rest.samples) / 16_000 == pytest.approx(9.6, abs=0.03)


@pytest.mark.parametrize("end", [3000.0, 48_000.0, 320_000.0])
def test_times_in_samples_or_milliseconds_have_their_reason(end):
    (found,) = segments.cut(recording(), [(0.0, end)], 30)
    assert isinstance(found, AudioError) and found.reason == segments.OTHER_UNIT
    assert f"ends at {end:g} s of 20.00 s" in str(found)


def test_a_quick_check_names_times_in_samples_too(tmp_path):
    (tmp_path / "a.wav").write_bytes(recording())
    rows = [
        {"text": "one", "start": 1, "end": 3, "split": "train"},
        {"text": "two", "start": 3, "end": 5, "split": "test"},
        {"text": "three", "start": 80_000, "end": 112_000, "split": "train"},
    ]
    lines = [json.dumps({"audio": "a.wav", **row}) for row in rows]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    spec = build_spec({"language": "en", "corpus": str(tmp_path)})
    plan = Plan(spec, open_sources(spec, [tmp_path], "en"), None, quick=True)
    with open_table() as table:
        report = check_clips(plan, table)
    assert any(segments.OTHER_UNIT in it.says for it in report.findings)
    assert report.splits["train"].dropped == 1


def test_memory_does_not_grow_with_the_recording(tmp_path):
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(8_000 * 20, np.float32))
    spans = [(float(at), at + 4.0) for at in range(0, 1196, 4)]
    tracemalloc.start()
    count = sum(isinstance(found, segments.Cut) for found in segments.cut(path, spans, 30))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == len(spans)
    assert peak < 4_000_000, peak  # the recording is 38 MB of float32


@pytest.mark.parametrize(
    ("row", "span"),
    [
        ({"offset": "1.5", "duration": "2"}, (1.5, 3.5)),
        ({"start": "0:01:02,500", "end": "62.75"}, (62.5, 62.75)),
        ({"start": "1", "end": ""}, (1.0, None)),
        ({"duration": "2"}, (0.0, None)),
    ],
)
def test_columns_that_say_where_a_clip_lies(row, span):
    assert span_of(row) == span


def test_a_duration_of_a_nemo_manifest_cuts():
    assert span_of({"duration": "2"}, duration_cuts=True) == (0.0, 2.0)
    assert seconds("12,5") == 12.5


@pytest.mark.parametrize(
    "row",
    [{"start": "soon"}, {"start": "-1"}, {"start": "nan"}, {"start": "3", "end": "2"}],
)
def test_times_that_are_no_times_are_refused(row):
    with pytest.raises(ValueError):
        span_of(row)


def table(folder, columns) -> None:
    (folder / "talk.flac").write_bytes(recording(16_000, "FLAC"))
    rows = [
        {"audio": "talk.flac", "text": f"वाक्य {n}", "split": "test" if n == 6 else "train"}
        | columns(start, end)
        for n, (start, end) in enumerate(SPANS)
    ]
    rows.append({"audio": "talk.flac", "text": "परे", "split": "train"} | columns(19.0, 22.0))
    rows.append({"audio": "talk.flac", "text": "कब", "split": "train"} | columns(5.0, 4.0))
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("columns", "backwards"),
    [
        (
            lambda start, end: {"offset": start, "duration": round(end - start, 3)},
            "duration that is no time in seconds",
        ),
        (lambda start, end: {"start": start, "end": end}, segments.WRONG_TIMES),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_job_cuts_segments_and_decodes_their_recording_once(
    tmp_path, monkeypatch, columns, backwards, packed
):
    monkeypatch.setenv("LORAJOB_CACHE_GB", "0")
    table(tmp_path, columns)
    corpus = tmp_path / "m.jsonl"
    if packed:
        with (tmp_path / "m.tar").open("wb") as file:
            pack_corpus(open_corpus(corpus, "hi"), file)
        (tmp_path / "talk.flac").unlink()
        corpus = tmp_path / "m.tar"
    decoded = []
    stream = segments._stream
    monkeypatch.setattr(segments, "_stream", lambda file: decoded.append(1) or stream(file))
    out = tmp_path / "out"
    out.mkdir()
    model = make_model(tmp_path / "model", "hi")
    spec = build_spec({"language": "hi", "corpus": str(corpus), "base_model": str(model)})
    report = Report("preprocess", io.StringIO())
    result = preprocess.run(spec, JobDir(tmp_path), out, 1, report)
    monkeypatch.undo()
    assert result.dropped == {segments.BEYOND: 1, backwards: 1}
    assert (result.train_clips, result.test_clips) == (6, 1)
    stores = [ClipStore(out / name) for name in ("train", "test")]
    by_text = {text: s.audio(n) for s in stores for n, text in enumerate(s.texts)}
    for number, (start, end) in enumerate(SPANS):
        samples = by_text[f"वाक्य {number}"]
        assert len(samples) == (end - start) * 16_000
        assert hertz(samples) == pytest.approx(200 + 50 * int(start), abs=3)
    assert len(decoded) == 1


# A joined recording: words of 0.4 s, each its own tone, with a pause of 0.1 s behind each, and one
# of 0.6 s behind words 24 and 59. Times in tables are off by up to 0.1 s.
LONG_PAUSES = (24, 59)


def spoken_words() -> tuple[bytes, list[dict[str, object]], list[float]]:
    """A recording of 90 words (46 s), the words with times, and the middles of the pauses."""
    rng = np.random.default_rng(0)
    parts, words, middles, at = [], [], [], 0.0
    for number in range(90):
        pause = 0.6 if number in LONG_PAUSES else 0.1
        off = float(rng.uniform(-0.1, 0.1))
        words.append({"word": f" w{number},", "start": at + off, "end": at + 0.4 + off})
        parts += [tone(0.4, 16_000, 300 + 20 * number), np.zeros(round(pause * 16_000))]
        middles.append(at + 0.4 + pause / 2)
        at += 0.4 + pause
    return sound_bytes(np.concatenate(parts), 16_000), words, middles


@pytest.mark.parametrize("kind", ["manifest", "nemo", "finetune", "textgrid", "elan"])
def test_a_text_over_30_s_is_cut_at_pauses_between_its_words(tmp_path, kind):
    audio, words, middles = spoken_words()
    (tmp_path / "a.wav").write_bytes(audio)
    text = " ".join(f"w{number}," for number in range(90))
    listed = words if kind != "nemo" else [{"words": words[:50]}, {"words": words[50:]}]
    if kind in ("textgrid", "elan"):
        spans = [(it["start"], it["end"], str(it["word"]).strip()) for it in words]
        spans[0] = (0.0, *spans[0][1:])
        tiers = {"text": [(0.0, 46.0, text)], "words": spans}
        name = "a.TextGrid" if kind == "textgrid" else "a.eaf"
        (tmp_path / name).write_text(textgrid(tiers) if kind == "textgrid" else eaf(tiers), "utf-8")
    else:
        key = "audio_filepath" if kind == "nemo" else "audio"
        row = {key: "a.wav", "text": text, "duration": 46.0, "words": listed}
        if kind == "finetune":
            sentences = [{"start": 0, "end": 46.0, "text": text, "words": words}]
            row = {"audio": {"path": "a.wav"}, "duration": 46.0, "sentences": sentences}
        (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    corpus = open_corpus(tmp_path, "en")
    # Cut behind words 24 and 59: the longest pauses within 10 to 28 s of each beginning.
    assert [it.text.split()[0] for it in corpus.entries] == ["w0,", "w25,", "w60,"]
    assert " ".join(it.text for it in corpus.entries) == text
    cuts = [piece.cut(30) for piece in pieces(corpus.clips({"train"}), 30)]
    ends = np.cumsum([len(it.samples) / 16_000 for it in cuts])
    assert ends[:2] == pytest.approx([middles[it] for it in LONG_PAUSES], abs=0.03)
    assert not any(it.in_speech for it in cuts)
    whole = soundfile.read(io.BytesIO(audio), dtype="float32")[0]
    # No sample is lost or doubled.
    assert np.array_equal(np.concatenate([it.mono() for it in cuts]), whole)


def eaf(tiers: dict[str, list[tuple[float, float, str]]]) -> str:
    """An ELAN document. The second tier has the words of the first one."""
    slots, found = [], []
    for name, spans in tiers.items():
        rows = []
        for start, end, text in spans:
            at = len(slots)
            slots += [start, end]
            rows.append(
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{at}" TIME_SLOT_REF1="t{at}"'
                f' TIME_SLOT_REF2="t{at + 1}"><ANNOTATION_VALUE>{text}</ANNOTATION_VALUE>'
                "</ALIGNABLE_ANNOTATION></ANNOTATION>"
            )
        above = ' PARENT_REF="text"' if name != "text" else ""
        found.append(f'<TIER TIER_ID="{name}"{above}>{"".join(rows)}</TIER>')
    times = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="t{at}" TIME_VALUE="{round(1000 * it)}"/>'
        for at, it in enumerate(slots)
    )
    inner = f"<TIME_ORDER>{times}</TIME_ORDER>{''.join(found)}"
    return f"<ANNOTATION_DOCUMENT>{inner}</ANNOTATION_DOCUMENT>"


def test_a_long_cue_of_webvtt_is_cut_at_the_times_inside_it(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound_bytes(tone(40, 8_000), 8_000))
    words = [f"<00:00:{n:02}.000><c> w{n}{'.' if n == 14 else ''}</c>" for n in range(1, 40)]
    cues = ["00:00:00.000 --> 00:00:40.000", f"<v Anita>w0{''.join(words)}", ""]
    (tmp_path / "a.vtt").write_text("\n".join(["WEBVTT", "", *cues]), "utf-8")
    first, second = open_corpus(tmp_path, "en").entries
    # The cut is behind the end of a sentence, and its pause is looked for near the next word.
    assert (first.start, first.end, first.speaker) == (0.0, 15.0, "Anita")
    assert (second.start, second.end) == (15.0, 40.0)
    assert first.text == " ".join([*(f"w{n}" for n in range(14)), "w14."])
    assert second.text == " ".join(f"w{n}" for n in range(15, 40))
    assert first.end_slack == second.start_slack > 0.2


def test_words_that_run_into_each_other_are_cut_and_noted_and_other_words_are_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound_bytes(tone(40, 8_000), 8_000))
    words = [{"text": f"w{n}", "timestamp": [n, n + 1]} for n in range(40)]
    in_milliseconds = [{"word": f"w{n}", "start": 500 * n, "end": 500 * n + 90} for n in range(40)]
    rows = [
        {"audio": "a.wav", "text": " ".join(f"w{n}" for n in range(40)), "chunks": words},
        {"audio": "a.wav", "text": "other words", "chunks": words},
        {"audio": "a.wav", "text": "short", "end": 2.5, "chunks": words},
        {"audio": "a.wav", "text": "short", "duration": 20, "words": in_milliseconds},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "train.jsonl").write_text(lines + "\n", "utf-8")
    corpus = open_corpus(tmp_path, "en")
    *cut, other, short, whole = corpus.entries
    assert len(cut) == 2 and other.fault == timed.MISMATCH
    assert (short.text, short.end) == ("short", 2.5)
    assert (whole.text, whole.end, whole.fault) == ("short", None, "")
    spec = build_spec({"language": "en", "corpus": "c"})
    wanted = Wanted(spec.preprocess, spec.text, len, "en")
    noted = [it.clip for it in pieces(corpus.clips({"train"}), 30) if cut_in_speech(it, wanted)]
    assert [it.id for it in noted] == [it.id for it in cut]


def cut_in_speech(piece, wanted) -> bool:
    return NO_PAUSE in examine(piece, wanted).remarks
