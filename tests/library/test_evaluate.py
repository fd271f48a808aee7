"""The third stage, with a model that says nothing sensible, but says it quickly."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.spec import build_spec
from lorajob.speech.clipstore import ClipStore
from lorajob.stage import run_stage
from lorajob.whisper import ct2
from lorajob.whisper.tokens import Labels
from tests.support.tiny import make_job
from tests.support.training import SHORT

Calls = list[bool]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """Whether windows were cut, each time that clips are decoded."""
    calls: Calls = []
    transcribe = ct2.Decoder.transcribe

    def noted(self: ct2.Decoder, *args: Any, **kwargs: Any) -> list[str]:
        calls.append(bool(args[5]) if len(args) > 5 else kwargs.get("cut", False))
        return transcribe(self, *args, **kwargs)

    monkeypatch.setattr(ct2.Decoder, "transcribe", noted)
    monkeypatch.setattr("lorajob.storage.places.cache", lambda: tmp_path / "cache")
    return calls


def evaluated(folder: Path, whisper: Path, *sets: str) -> JobDir:
    job = make_job(folder, whisper, *SHORT, "train.epochs=1", *sets, clips=4)
    run_stage("train", job, 1, Report("train"))
    run_stage("evaluate", job, 1, Report("evaluate"))
    return job


def test_the_base_is_decoded_once_for_the_same_clips(
    tiny_whisper: Path, tmp_path: Path, decoded: Calls
) -> None:
    first = evaluated(tmp_path / "first", tiny_whisper)
    assert decoded == [False, True]  # the base on full windows, the tuned model on cut ones
    second = evaluated(tmp_path / "second", tiny_whisper)
    assert decoded == [False, True, True]
    results = [job.result("evaluate") for job in (first, second)]
    assert results[0].base == results[1].base
    other = ("evaluate.max_clips=3",)
    evaluated(tmp_path / "third", tiny_whisper, *other)
    assert decoded == [False, True, True, False, True]


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


def test_the_metrics_say_how_the_tuned_model_heard(
    tiny_whisper: Path, tmp_path: Path, decoded: Calls
) -> None:
    job = evaluated(tmp_path, tiny_whisper, "evaluate.audio_context=full")
    metrics = json.loads((job.stage_dir("evaluate") / "metrics.json").read_text())
    assert metrics["tuned_audio_context"] == "full"
    assert decoded == [False, False]


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
    batches = [seconds[batch] for batch in ct2.decode_batches(seconds, 16, cut)]
    assert [len(batch) for batch in batches] == sizes
    assert [one for batch in batches for one in batch] == seconds


def test_a_transcript_is_no_longer_than_the_fastest_speaker_makes_it(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ClipStore(make_job(tmp_path, tiny_whisper).stage_dir("preprocess") / "train")
    places = range(len(store))
    limits = ct2.token_limits(store, places)
    assert all(limit >= store.tokens[place] for limit, place in zip(limits, places, strict=True))
    assert any(limit == store.tokens[place] for limit, place in zip(limits, places, strict=True))
    spoken: list[int] = []
    decode = Labels.decode

    def noted(self: Labels, ids: list[int]) -> str:
        spoken.append(len(ids))
        return decode(self, ids)

    monkeypatch.setattr(Labels, "decode", noted)
    model = ct2.convert(tiny_whisper, tmp_path / "model", "float32")
    decoder = ct2.Decoder(model, Labels(tiny_whisper, "hi"))
    decoder.transcribe(store, places, batch_size=len(store))
    assert sorted(spoken) == sorted(limits)  # an untrained model never ends by itself
    spoken.clear()
    for place in places:
        decoder.transcribe(store, [place], batch_size=1)
    assert spoken == [store.tokens[place] for place in places]
