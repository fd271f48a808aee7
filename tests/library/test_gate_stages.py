"""The gate in the stages evaluate and convert, with a model that says nothing sensible."""

import json
from pathlib import Path

import numpy as np
import pytest

from lorajob.corpora.guards import guard_folder
from lorajob.gate import noises
from lorajob.gate.hearing import LoadedModel
from lorajob.job.report import Report
from lorajob.speech.clipstore import ClipWriter
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
    own = "gate.corpora=[{corpus: /calls.tsv, language: en, max_rise: 200}]"
    job = make_job(tmp_path / "job", tiny_whisper, *sets, own, clips=4)
    tone = 0.1 * np.sin(np.arange(16_000) / 5)
    with ClipWriter(guard_folder(job.stage_dir("preprocess"), 1), "flac") as writer:
        writer.add("call.wav", tone.astype(np.float32), "good morning", "", 2)
    run_stage("train", job, 1, Report("train"))
    evaluated = run_stage("evaluate", job, 1, Report("evaluate"))
    # The base comes first, then both hear the noises.
    assert transcribed == ["base", "tuned", "tuned", "base"]
    states = {guard.name: guard.state for guard in evaluated.guards}
    assert states.keys() >= {"wer", "own_clips", "loops", "long_form", "noise", "conversion"}
    assert states["conversion"] == states["own_clips"] == "not_checked"
    assert states["speed"] == "reported"
    (calls,) = (guard for guard in evaluated.guards if guard.name == "guard_1")
    assert " % on 1 clips of calls.tsv (en), base " in calls.reason and calls.limit is not None
    metrics = json.loads((job.stage_dir("evaluate") / "metrics.json").read_text())
    assert metrics["gate"] == evaluated.gate
    assert metrics["guards"] == [guard.model_dump(mode="json") for guard in evaluated.guards]
    converted = run_stage("convert", job, 1, Report("convert"))
    (conversion,) = (guard for guard in converted.guards if guard.name == "conversion")
    assert conversion.state == "passed" and conversion.limit == 0.5
    assert converted.gate == evaluated.gate
