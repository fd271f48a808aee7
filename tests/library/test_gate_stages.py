"""The gate in the stages evaluate and convert, with a model that says nothing sensible."""

import json
from pathlib import Path

import numpy as np
import pytest

from lorajob import evaluate
from lorajob.book import job_text
from lorajob.book.text_weights import Weighed
from lorajob.corpora.guards import guard_folder
from lorajob.decoding.config import read_config
from lorajob.decoding.fast import FastDecoder
from lorajob.decoding.text_choice import TEXT_FILE
from lorajob.gate import noises
from lorajob.gate.checks import Candidate, check_all
from lorajob.gate.hearing import Clock, LoadedModel
from lorajob.job.jobdir import GLOSSARY, TEXT, JobDir, hash_file
from lorajob.job.report import Report
from lorajob.job.results import Difference, Guard, StageResult
from lorajob.spec_gate import GateConfig
from lorajob.speech.clipstore import ClipStore, ClipWriter
from lorajob.stage import run_stage
from tests.support.references import DECODERS, watch_decoders
from tests.support.tiny import SENTENCES, make_job
from tests.support.training import SHORT

ONLY_TESTED = f"{SENTENCES[0]} आज भी"  # a sentence that no training clip has

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


@pytest.fixture
def helpful_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The settings of a job whose text helps on its clips, whatever the model hears."""
    path = tmp_path / "job" / TEXT
    path.parent.mkdir(parents=True)
    path.write_text(f"{ONLY_TESTED}\nएक और वाक्य\n" * 3, "utf-8")
    gained = Difference(points=3, interval=(1, 5))
    weighed = Weighed(0.5, 0.25, 40.0, 39.0, 35.0, 30.0, gained, 4)
    monkeypatch.setattr(job_text, "LEAST_CLIPS", 2)
    monkeypatch.setattr(job_text, "choose_weights", lambda clips, model, seed: weighed)
    return "evaluate.text=/news.txt", f"evaluate.text_sha256={hash_file(path)}"


@pytest.fixture
def names(tmp_path: Path) -> tuple[str, ...]:
    """The settings of a job with a glossary: the first word of each sentence, and one more."""
    path = tmp_path / "job" / GLOSSARY
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*(it.split()[0] for it in SENTENCES), "Nairobi"]), "utf-8")
    return "evaluate.glossary=/names.txt", f"evaluate.glossary_sha256={hash_file(path)}"


def with_own_sentence(job: JobDir) -> set[str]:
    """Give the first test clip a sentence of its own. Returns the sentences of all test clips."""
    folder = job.stage_dir("preprocess") / "test"
    old = ClipStore(folder.rename(folder.with_name("before")))
    with ClipWriter(folder, "flac") as writer:
        for place, name in enumerate(old.ids):
            text = old.texts[place] if place else ONLY_TESTED
            writer.add(name, old.audio(place), text, old.speakers[place], int(old.tokens[place]))
    return {*ClipStore(folder).texts}


def check_glossary(evaluated: StageResult) -> None:
    """The test clips were decoded with the glossary, too, and its terms counted."""
    found = evaluated.glossary
    assert found is not None and evaluated.tuned is not None
    assert found.scores.clips == evaluated.tuned.clips and found.scores.wer_interval is not None
    assert found.said >= found.scores.clips and 0 <= found.missed <= found.missed_before
    (note,) = (it for it in evaluated.notes if it.startswith("glossary of "))
    assert f"of the {found.said} that are said are right with it" in note


def check_text_model(job: JobDir, notes: list[str]) -> None:
    """The model of text is beside the settings of evaluation and beside the converted model."""
    (note,) = (it for it in notes if it.startswith("model of text: "))
    assert note.removeprefix("model of text: ") == (
        "used by lorajob's decoder with the weight 0.5: on 4 clips of the training WER 35.0 % in "
        "place of 40.0 %, and 39.0 % of 5 beams alone; 3 lines are sentences of these or of test "
        "clips"
    )
    model = job.stage_dir("convert") / "model"
    config = read_config(model)
    assert config is not None and config == read_config(job.stage_dir("evaluate"))
    assert config.text is not None and config.text.sha256 == hash_file(model / TEXT_FILE)
    assert FastDecoder(model, config).chooses_by_text


def test_evaluation_and_conversion_carry_the_verdict_and_the_model_of_text(
    tiny_whisper: Path,
    tmp_path: Path,
    transcribed: list[str],
    helpful_text: tuple[str, ...],
    names: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emptied: list[bool] = []

    def check_and_lend(config: GateConfig, candidate: Candidate, clock: Clock) -> list[Guard]:
        found = check_all(config, candidate, clock)
        assert isinstance(candidate.tuned, LoadedModel) and candidate.fast is not None
        slot = candidate.tuned._slot
        assert slot.whisper is not None
        candidate.fast.long(np.zeros(8000, np.float32))
        emptied.append(slot.whisper is None)
        return found

    monkeypatch.setattr(evaluate, "check_all", check_and_lend)
    # The guards that are left need no long answer of an untrained model.
    unchecked = ("max_forgetting", "max_language_drop", "max_word_error")
    nulls = tuple(f"gate.{name}=null" for name in unchecked)
    sets = (
        *SHORT,
        *helpful_text,
        *names,
        "train.epochs=1",
        "convert.check_clips=1",
        "gate.check=true",
        *nulls,
    )
    own = "gate.corpora=[{corpus: /calls.tsv, language: en, max_rise: 200}]"
    job = make_job(tmp_path / "job", tiny_whisper, *sets, own, "gate.check=true", clips=4)
    tone = 0.1 * np.sin(np.arange(16_000) / 5)
    with ClipWriter(guard_folder(job.stage_dir("preprocess"), 1), "flac") as writer:
        writer.add("call.wav", tone.astype(np.float32), "good morning", "", 2)
    run_stage("train", job, 1, Report("train"))
    called = watch_decoders(monkeypatch, with_own_sentence(job))
    evaluated = run_stage("evaluate", job, 1, Report("evaluate"))
    assert len(called) == len(DECODERS)
    assert emptied == [True]  # lorajob's decoder loads the model again: two may not fit a GPU
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
    assert conversion.state == "not_checked"
    assert conversion.reason == "1 clip with a reference, 2 are needed"
    assert converted.gate == evaluated.gate
    check_text_model(job, evaluated.notes)
    check_glossary(evaluated)
    assert metrics["glossary"] == evaluated.glossary.model_dump(mode="json")
