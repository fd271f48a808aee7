"""The examples of a model card run on test clips."""

from pathlib import Path

import pytest

from lorajob.bundle.measure import measure_examples
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
