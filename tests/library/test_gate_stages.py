"""The gate in the stages evaluate and convert, with a model that says nothing sensible."""

import json
from pathlib import Path

import pytest

from lorajob.gate import noises
from lorajob.gate.hearing import LoadedModel
from lorajob.job.report import Report
from lorajob.stage import run_stage
from tests.support.tiny import make_job
from tests.support.training import SHORT

pytestmark = pytest.mark.usefixtures("brief")


@pytest.fixture
def transcribed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The folder of the model, each time that one transcribes for the gate; noises are short."""
    calls: list[str] = []
    transcribe = LoadedModel.transcribe

    def noted(self: LoadedModel, *args: object, **kwargs: object) -> object:
        calls.append(self._folder().name)
        return transcribe(self, *args, **kwargs)

    monkeypatch.setattr(LoadedModel, "transcribe", noted)
    monkeypatch.setattr("lorajob.storage.places.cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(noises, "SECONDS", 1)
    noises.noise_sounds.cache_clear()
    return calls


def test_evaluation_and_conversion_carry_the_verdict(
    tiny_whisper: Path, tmp_path: Path, transcribed: list[str]
) -> None:
    # The guards that are left need no long answer of an untrained model.
    unchecked = ("max_forgetting", "max_language_drop", "max_word_error")
    nulls = tuple(f"gate.{name}=null" for name in unchecked)
    sets = (*SHORT, "train.epochs=1", "convert.check_clips=1", "gate.check=true", *nulls)
    job = make_job(tmp_path / "job", tiny_whisper, *sets, clips=4)
    run_stage("train", job, 1, Report("train"))
    evaluated = run_stage("evaluate", job, 1, Report("evaluate"))
    assert transcribed == ["tuned", "base"]
    states = {guard.name: guard.state for guard in evaluated.guards}
    assert states.keys() >= {"wer", "own_clips", "loops", "long_form", "noise", "conversion"}
    assert states["conversion"] == states["own_clips"] == "not_checked"
    assert states["speed"] == "reported"
    metrics = json.loads((job.stage_dir("evaluate") / "metrics.json").read_text())
    assert metrics["gate"] == evaluated.gate
    assert metrics["guards"] == [guard.model_dump(mode="json") for guard in evaluated.guards]
    converted = run_stage("convert", job, 1, Report("convert"))
    (conversion,) = (guard for guard in converted.guards if guard.name == "conversion")
    assert conversion.state == "passed" and conversion.limit == 0.5
    assert converted.gate == evaluated.gate
