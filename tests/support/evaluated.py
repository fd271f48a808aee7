"""A job that has finished its evaluation, made without a model: the transcripts are given."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.spec import build_spec
from lorajob.speech.clipstore import ClipWriter
from lorajob.speech.scoring import score
from tests.support.tiny import SENTENCES


def make_evaluated_job(
    root: Path,
    heard: Mapping[str, Sequence[str]],
    *sets: str,
    said: Sequence[str] = SENTENCES,
    corpus: str = "hi.tar.gz",
    language: str = "hi",
) -> JobDir:
    """`heard` has the transcripts of each model, one for each text of `said`."""
    job = JobDir(root)
    given = {"language": language, "corpus": corpus, "base_model": "demo/whisper-base"}
    write_json(job.spec_path, build_spec(given, sets=sets).model_dump(mode="json"))
    out = job.new_attempt("preprocess", 1)
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    with ClipWriter(out / "test", "flac") as writer:
        for n, text in enumerate(said):
            writer.add(f"test-{n}.wav", noise, text, f"speaker-{n % 3}", 5)
    job.commit("preprocess", out, StageResult())
    out = job.new_attempt("train", 1)
    rows = [{"step": n, "loss": 5 - n / 500, "learning_rate": 1e-3} for n in range(1, 1001)]
    for row in rows[249::250]:
        row |= {"validation_wer": 80 - row["step"] / 50, "validation_cer": 40 - row["step"] / 50}
    (out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job.commit("train", out, StageResult.model_validate({"seconds": 3725.0, "cpu_seconds": 61.0}))
    out = job.new_attempt("evaluate", 1)
    with (out / "utterances.jsonl").open("w", encoding="utf-8") as file:
        for n, text in enumerate(said):
            row = {"id": f"test-{n}.wav", "seconds": 2.5, "reference": text}
            row |= {model: texts[n] for model, texts in heard.items()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    metrics: dict[str, Any] = {
        model: score(list(said), list(texts)).model_dump() for model, texts in heard.items()
    }
    write_json(out / "metrics.json", metrics | {"intervals": {"base": [50.5, 70.5]}})
    job.commit("evaluate", out, StageResult(warnings=["a warning of the stage"]))
    return job
