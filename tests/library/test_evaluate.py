"""The third stage, with a model that says nothing sensible, but says it quickly."""

import json
import shutil
from pathlib import Path
from typing import Any

import jiwer
import pytest

from lorajob import evaluate
from lorajob.decoding import fast, paired
from lorajob.decoding.config import read_config, token_limits
from lorajob.decoding.delivered import DecodedClips, HeardClip, listen, load_for_users
from lorajob.decoding.fast import Sound
from lorajob.decoding.windows import decode_batches
from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.job.results import StageResult, fewer_errors
from lorajob.spec import build_spec
from lorajob.speech.clipstore import ClipStore, ClipWriter
from lorajob.speech.text import normalise
from lorajob.stage import run_stage
from lorajob.whisper import ct2
from tests.support.speech import tone
from tests.support.tiny import make_job
from tests.support.training import SHORT

Calls = list[str]
pytestmark = pytest.mark.usefixtures("brief")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """The model that is decoded, each time that faster-whisper decodes clips."""
    calls: Calls = []
    listen = paired.listen

    def noted(model: Path, *args: Any) -> DecodedClips:
        calls.append(model.name)
        return listen(model, *args)

    monkeypatch.setattr(paired, "listen", noted)
    monkeypatch.setattr("lorajob.storage.places.cache", lambda: tmp_path / "cache")
    return calls


@pytest.fixture(scope="module")
def trained(tiny_whisper: Path, brief: None, tmp_path_factory: pytest.TempPathFactory) -> JobDir:
    job = make_job(
        tmp_path_factory.mktemp("trained"), tiny_whisper, *SHORT, "train.epochs=1", clips=4
    )
    run_stage("train", job, 1, Report("train"))
    return job


def evaluated(
    folder: Path,
    trained: JobDir,
    *sets: str,
    test: Path | None = None,
    report: dict[str, Any] | None = None,
) -> JobDir:
    """The job `trained`, evaluated with other settings, test clips or report of preprocessing."""
    job = JobDir(folder)
    shutil.copytree(trained.root, folder)
    spec = json.loads(job.spec_path.read_text())
    given = {"language": "hi", "corpus": "unused", "base_model": spec["base_model"]}
    job.spec_path.write_text(
        build_spec(given, sets=(*SHORT, "gate.check=false", *sets)).model_dump_json()
    )
    if test is not None:
        shutil.rmtree(job.stage_dir("preprocess") / "test")
        shutil.copytree(test, job.stage_dir("preprocess") / "test")
    if report is not None:
        (job.stage_dir("preprocess") / "report.json").write_text(json.dumps(report))
    run_stage("evaluate", job, 1, Report("evaluate"))
    return job


def metrics_of(job: JobDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.stage_dir("evaluate") / "metrics.json").read_text())
    return found


def rows_of(job: JobDir) -> list[dict[str, Any]]:
    lines = (job.stage_dir("evaluate") / "utterances.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_base_is_decoded_once_for_the_same_clips(
    trained: JobDir,
    tmp_path: Path,
    decoded: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = evaluated(tmp_path / "first", trained)
    monkeypatch.setattr(fast, "CLIPS_TO_FORECAST", 1)
    capsys.readouterr()
    # Both at the same time, if there are two processors.
    assert sorted(decoded) == ["base", "tuned"]
    second = evaluated(tmp_path / "second", trained)
    assert decoded[2:] == ["tuned"]
    ahead = metrics_of(second)["forecast_seconds"]
    assert ahead["tuned"] > 0 and ahead["base"] == ahead["delivered"] > ahead["tuned"]
    assert ahead["gate"] == 0
    # It is shown before the first clip is decoded.
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    first_eta = next(it["eta_seconds"] for it in events if it.get("eta_seconds"))
    assert first_eta == pytest.approx(sum(ahead.values()))
    results = [job.result("evaluate") for job in (first, second)]
    assert results[0].base == results[1].base
    # Everything is seeded.
    assert results[0].delivered == results[1].delivered and results[0].tuned == results[1].tuned
    evaluated(tmp_path / "third", trained, "evaluate.delivered_clips=3")
    assert sorted(decoded[3:]) == ["base", "tuned"]


@pytest.mark.parametrize(
    ("sets", "context"),
    [
        ((), "dynamic"),
        (("evaluate.audio_context=full",), "full"),
        (("train.audio_context=full",), "full"),
        (("train.cut_clips=0.1",), "full"),
        (("train.audio_context=full", "evaluate.audio_context=dynamic"), "dynamic"),
    ],
)
def test_windows_are_cut_where_the_model_was_trained_for_it(
    sets: tuple[str, ...], context: str
) -> None:
    spec = build_spec({"language": "hi", "corpus": "c"}, sets=sets)
    assert spec.decodes_cut == (context == "dynamic")


def with_a_wrong_reference(test: ClipStore, folder: Path) -> Path:
    """The same clips; the reference of the first has 400 words for a second of audio."""
    with ClipWriter(folder, "flac") as writer:
        for place, name in enumerate(test.ids):
            text, audio = test.texts[place], test.audio(place)
            if place == 0:
                text = "शब्द " * 400
            writer.add(name, audio[:16_000] if place == 0 else audio, text, test.speakers[place], 9)
    return folder


def test_a_wrong_reference_changes_no_transcript_and_no_figure_of_another_clip(
    trained: JobDir, tmp_path: Path
) -> None:
    test = ClipStore(trained.stage_dir("preprocess") / "test")
    short = with_a_wrong_reference(test, tmp_path / "wrong")
    right = tmp_path / "right"
    with ClipWriter(right, "flac") as writer:
        wrong = ClipStore(short)
        for place, name in enumerate(test.ids):
            writer.add(name, wrong.audio(place), test.texts[place], test.speakers[place], 9)
    jobs = [evaluated(tmp_path / f"job-{it.name}", trained, test=it) for it in (right, short)]
    before, after = (rows_of(job) for job in jobs)
    models = ("base", "delivered", "tuned")
    assert [[row[it] for it in models] for row in before] == [
        [row[it] for it in models] for row in after
    ]
    assert before[1:] == after[1:]
    assert metrics_of(jobs[0])["decoding"] == metrics_of(jobs[1])["decoding"]
    assert before[0]["reference"] != after[0]["reference"]


def test_the_settings_of_decoding_come_from_the_training_clips(
    trained: JobDir, tmp_path: Path
) -> None:
    train = ClipStore(trained.stage_dir("preprocess") / "train")
    report = {
        "token_limits": token_limits(train.tokens, train.seconds).model_dump(mode="json"),
        "in_both": {"speakers": 1, "texts": 1},
        "test_clips_in_both": {"clips_of_speakers": 2, "clips_of_texts": 1},
        "shared": {"speakers": ["speaker-0"], "clips_of_texts": ["test-1.wav"]},
    }
    sets = ("evaluate.audio_context=full", "seed=7")
    job = evaluated(tmp_path / "job", trained, *sets, report=report)
    config = read_config(job.stage_dir("evaluate"))
    assert config is not None
    check_unshared_rates(job)
    assert config.limits == token_limits(train.tokens, train.seconds)
    assert (config.language, config.cut, config.seed) == ("hi", False, 7)
    found = metrics_of(job)
    assert found["tuned_audio_context"] == "full"
    assert found["decoding"] == config.model_dump(mode="json")


def check_unshared_rates(job: JobDir) -> None:
    """Of clips 0 to 3, of speakers 0, 1, 2, 0: speaker 0 and the sentence of 1 are in training."""
    unshared, rows = metrics_of(job)["unshared"], rows_of(job)
    parts = {"speakers": [1, 2], "sentences": [0, 2, 3], "both": [2]}
    assert unshared.keys() == parts.keys()
    for name, places in parts.items():
        for model, scores in unshared[name].items():
            said = [normalise(rows[place]["reference"], "hi") for place in places]
            heard = [normalise(rows[place][model], "hi") for place in places]
            assert scores["clips"] == len(places)
            assert scores["wer"] == pytest.approx(100 * jiwer.wer(said, heard))
    result = job.result("evaluate")
    assert result is not None and result.unshared["both"].keys() == {"base", "delivered", "tuned"}
    wer = result.unshared["speakers"]["base"].wer
    (note,) = [it for it in result.notes if "test clips of new speakers alone: " in it]
    assert f"base {wer:.1f} % WER (2 clips), delivered " in note


def test_a_base_on_fewer_clips_is_compared_on_these(trained: JobDir) -> None:
    store = ClipStore(trained.stage_dir("preprocess") / "test")
    delivered = [HeardClip(text=text) for text in (store.texts[0], "गलत", *store.texts[2:])]
    base = [HeardClip(text="गलत है"), HeardClip(text=store.texts[1])]
    clips = evaluate._Clips(store, [0, 1, 2, 3], [0, 1, 2, 3])
    heard = evaluate._Transcripts(clips, store.texts, delivered, base)
    spec = build_spec({"language": "hi", "corpus": "c"}, sets=("evaluate.base_clips=2",))
    result, _ = evaluate.measure(heard, spec, evaluate.Training())
    said, by_base, by_delivered = (
        [normalise(text, "hi") for text in texts]
        for texts in (store.texts, [it.text for it in base], [it.text for it in delivered])
    )
    assert (result.base.clips, result.delivered.clips) == (2, 4)
    assert result.delivered.wer == pytest.approx(100 * jiwer.wer(said, by_delivered))
    assert result.base.wer == pytest.approx(100 * jiwer.wer(said[:2], by_base))
    # The difference is that of the clips that both have.
    there = 100 * jiwer.wer(said[:2], by_delivered[:2])
    assert result.improvement.points == pytest.approx(result.base.wer - there)
    assert result.delivered_on_base_clips.clips == 2
    assert result.delivered_on_base_clips.wer == pytest.approx(there)
    fewer = fewer_errors(StageResult.model_validate(result.model_dump()), "wer")
    assert fewer == pytest.approx(100 * (1 - there / result.base.wer))
    assert result.notes[0] == (
        f"base: the first 2 of the 4 clips of delivered, which has {there:.1f} % WER on them: "
        "evaluate.base_clips=2"
    )
    # Without spaces between words, all is said of characters.
    spec = build_spec({"language": "zh", "corpus": "c"}, sets=("evaluate.base_clips=2",))
    result, details = evaluate.measure(heard, spec, evaluate.Training())
    there = result.delivered_on_base_clips.cer
    intervals = details["intervals"]
    assert isinstance(intervals, dict) and intervals["base"] == result.base.cer_interval
    assert result.improvement.metric == "cer"
    assert result.improvement.points == pytest.approx(result.base.cer - there)
    assert f"which has {there:.1f} % CER on them" in result.notes[0]


def test_one_clip_has_neither_an_interval_nor_an_improvement(trained: JobDir) -> None:
    store = ClipStore(trained.stage_dir("preprocess") / "test")
    heard = [HeardClip(text="गलत है")]
    transcripts = evaluate._Transcripts(evaluate._Clips(store, [0], [0]), ["सही"], heard, heard)
    spec = build_spec({"language": "hi", "corpus": "c"})
    result, _ = evaluate.measure(transcripts, spec, evaluate.Training())
    assert (result.base.clips, result.base.wer_interval, result.improvement) == (1, None, None)


@pytest.mark.parametrize("sets", [("gate.min_speed=2",), ("gate.min_speed=2", "gate.check=false")])
def test_a_limit_of_the_speed_is_checked_without_the_base_beside(
    trained: JobDir, sets: tuple[str, ...]
) -> None:
    spec = build_spec({"language": "hi", "corpus": "c"}, sets=sets)
    store = ClipStore(trained.stage_dir("preprocess") / "test")
    clips = evaluate._for_users(evaluate._choose(store, spec), spec)
    assert clips.one_by_one == (len(sets) == 1)


def test_both_samples_have_every_speaker_and_not_the_first_clips(tmp_path: Path) -> None:
    speakers = ["a"] * 10 + ["b"] * 2 + ["c"] * 2
    with ClipWriter(tmp_path / "test", "flac") as writer:
        for number, speaker in enumerate(speakers):
            writer.add(f"{number}.wav", tone(0.1), "नमस्ते", speaker, 2)
    sets = ("evaluate.max_clips=6", "evaluate.delivered_clips=3")
    spec = build_spec({"language": "hi", "corpus": "c"}, sets=sets)
    found = evaluate._choose(ClipStore(tmp_path / "test"), spec)
    assert sorted(speakers[it] for it in found.all) == ["a", "a", "b", "b", "c", "c"]
    assert sorted(speakers[it] for it in found.sample) == ["a", "b", "c"]
    assert set(found.sample) <= set(found.all)


def test_the_language_is_that_which_the_model_identifies_alone(tiny_whisper: Path) -> None:
    model = tiny_whisper.parent / "identifies"
    ct2.convert(tiny_whisper, model, "float32")
    sounds = [tone(seconds, hertz) for seconds, hertz in ((1.0, 200), (2.5, 900))]
    heard = listen(model, "hi", [Sound.of(it) for it in sounds]).clips
    alone = load_for_users(model)
    assert [it.language for it in heard] == [alone.identify(it) for it in sounds]
    assert all(it.language for it in heard)


def test_figures_have_intervals_and_say_what_they_rest_on(trained: JobDir, tmp_path: Path) -> None:
    sets = ("evaluate.max_clips=3", "evaluate.delivered_clips=2")
    job = evaluated(tmp_path / "job", trained, *sets)
    result = job.result("evaluate")
    assert result is not None
    for scores in (result.base, result.delivered, result.tuned):
        assert scores is not None and scores.wer_interval is not None
        low, high = scores.wer_interval
        assert low <= scores.wer <= high
    gain = result.improvement
    assert gain.points == pytest.approx(result.base.wer - result.delivered.wer)
    assert gain.interval[0] <= gain.points <= gain.interval[1]
    assert "tuned: 3 of 4 test clips, drawn at random" in result.notes
    assert "base and delivered: 2 of 4 test clips, drawn at random" in result.notes
    assert any(
        "4 of 4 test clips are of speakers who are also in training" in it for it in result.notes
    )
    assert any("4 of 4 test clips have a sentence that is also in" in it for it in result.notes)
    assert metrics_of(job)["overlap"]["speakers"] == 3
    assert len(rows_of(job)) == 3 and sum("delivered" in row for row in rows_of(job)) == 2


def test_when_the_time_is_over_both_models_are_scored_on_the_same_fewer_clips(
    trained: JobDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorajob.decoding.delivered.FEWEST_CLIPS", 2)
    job = evaluated(tmp_path / "job", trained, "evaluate.delivered_minutes=1e-9", "seed=3")
    result = job.result("evaluate")
    assert result is not None and result.base is not None and result.delivered is not None
    assert result.base.clips == result.delivered.clips == 2 and result.tuned.clips == 4
    assert any("2 of the 4 clips that were drawn, because" in it for it in result.notes)


@pytest.mark.parametrize(
    ("seconds", "cut", "sizes"),
    (
        ([4.0] * 40, False, [16, 16, 8]),
        ([4.0] * 40, True, [32, 8]),
        ([30.0, *[4.0] * 40], True, [16, 25]),
        ([19.5] * 30, True, [24, 6]),
        ([], True, []),
    ),
)
def test_clips_that_are_not_padded_are_decoded_more_at_a_time(seconds, cut, sizes):
    batches = [seconds[batch] for batch in decode_batches(seconds, 16, cut)]
    assert [len(batch) for batch in batches] == sizes
    assert [one for batch in batches for one in batch] == seconds
