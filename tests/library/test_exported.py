"""The examples of a model card run on test clips, and that of whisper.cpp on speech."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile

from lorajob.bundle.ggml import write_ggml
from lorajob.bundle.layout import plan_layout
from lorajob.bundle.measure import measure_examples
from lorajob.bundle.usage import examples
from lorajob.demo.espeak import VOICES, Speaker
from lorajob.job.jobdir import JobDir
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import score

pytestmark = pytest.mark.slow


def test_an_example_loads_its_model_once_and_hears_each_clip(
    finished_job: Path, tmp_path: Path
) -> None:
    code = """\
import soundfile
loaded = []
loaded.append(1)
audio, rate = soundfile.read("audio.wav")
print(len(loaded), rate, len(audio))"""
    said: list[str] = []
    job = JobDir(finished_job)
    store = ClipStore(job.stage_dir("preprocess") / "test")
    (found,) = measure_examples(
        job, tmp_path, [("x", "python", code), ("y", "sh", "z")], "hi", 99, said.append
    )
    heard = [f"1 16000 {len(store.audio(place))}" for place in range(len(store))]
    assert found.wer == pytest.approx(score(store.texts, heard, "hi").wer)
    assert (found.clips, list(tmp_path.iterdir())) == (len(store), [])


def test_whisper_cpp_hears_speech_with_the_code_of_the_card(
    whisper_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The model is whisper-base, because whisper.cpp has no models of two layers."""
    import soxr
    from transformers import WhisperForConditionalGeneration

    said = "The children walk to school every morning."
    with Speaker() as speaker:
        sound = soxr.resample(speaker.say(said, "en", VOICES[0]), speaker.sample_rate, 16_000)
    soundfile.write(tmp_path / "audio.wav", sound, 16_000)
    layout = plan_layout(["ggml"], (), hub=False)
    assert layout.ggml is not None
    (tmp_path / layout.ggml).parent.mkdir()
    model = WhisperForConditionalGeneration.from_pretrained(whisper_base)
    write_ggml(model, whisper_base / "tokenizer.json", tmp_path / layout.ggml)
    facts: Any = SimpleNamespace(language=SimpleNamespace(token="en"))
    (code,) = [it for _, kind, it in examples(facts, layout, None) if kind == "python"]
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    exec(code, {})
    assert capfd.readouterr().out.strip() == said
