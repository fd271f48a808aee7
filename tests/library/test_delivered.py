"""`delivered` is what a user of the model measures without lorajob."""

import json
from pathlib import Path

import ctranslate2
import jiwer
import pytest
from faster_whisper import WhisperModel

from lorajob.job.report import Report
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.text import normalise
from lorajob.stage import run_stage
from tests.support.tiny import make_job
from tests.support.training import SHORT

# An untrained model trips every threshold, so that one clip takes seconds.
SETS = ("evaluate.delivered_clips=1", "convert.check_clips=1")


def test_delivered_is_what_twenty_lines_with_faster_whisper_and_jiwer_give(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SHORT, "train.epochs=1", *SETS, clips=4)
    for stage in ("train", "evaluate", "convert"):
        run_stage(stage, job, 1, Report(stage))
    test = ClipStore(job.stage_dir("preprocess") / "test")
    lines = (job.stage_dir("evaluate") / "utterances.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "delivered" in row]

    ctranslate2.set_random_seed(0)
    model = WhisperModel(str(job.stage_dir("convert") / "model"))
    said, heard = [], []
    for row in rows:
        place = test.ids.index(row["id"])
        segments, _ = model.transcribe(test.audio(place), language="hi")
        heard.append(normalise(" ".join(segment.text.strip() for segment in segments), "hi"))
        said.append(normalise(test.texts[place], "hi"))

    result = job.result("evaluate")
    assert result is not None and result.delivered is not None
    assert result.delivered.wer == pytest.approx(100 * jiwer.wer(said, heard))
    assert result.delivered.cer == pytest.approx(100 * jiwer.cer(said, heard))
    assert result.delivered.clips == result.base.clips == 1 and result.tuned.clips == 4
    assert job.result("convert").converted == result.delivered
