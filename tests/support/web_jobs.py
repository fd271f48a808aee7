"""Jobs for the pages: finished ones with sound and transcripts, one that trains, others. No model
is run.
"""

import json
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.report import Progress
from lorajob.job.results import StageResult
from lorajob.spec import build_spec
from lorajob.speech.clipstore import ClipWriter
from lorajob.speech.scoring import METRICS, interval, score
from lorajob.tasks.jobs import Jobs
from lorajob.worker.records.names import Naming
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim

BASELINE, BETTER, TRAINS = "hi-0a0a0001", "hi-0a0a0002", "hi-0a0a0003"
FAILED, QUEUED = "hi-0a0a0004", "hi-0a0a0005"
CLIPS = 40
FAILURE = "preprocess: validated.tsv has no column `sentence`; --map text=COLUMN names it"
GUARDS = (
    ("wer", "passed", "The delivered model has 62.4 points fewer word errors than its base."),
    ("own clip", "passed", "Transcripts fit their own clip 54.1 points better than other clips."),
    ("loops", "passed", "No delivered transcript repeats itself."),
    ("forgetting", "passed", "The error rate in three other languages rose by 4.2 points."),
    ("silence", "passed", "The model invented 0 words in 60 s of silence, hum, noise and tones."),
    ("word times", "not_checked", "No time was left; gate.minutes is 10."),
)


def make_web_jobs(jobs: Jobs) -> Claim:
    """Five jobs in the states that a page shows. Returns the claim of the one that trains."""
    _finished(jobs, BASELINE, "baseline", 0.35, {"kind": "baseline"})
    _finished(
        jobs, BETTER, "five-epochs", 0.22, {"kind": "trial"}, "train.epochs=5", "train.rank=64"
    )
    record = _queued(jobs, FAILED, None)
    claim = _claim(jobs, record, "preprocess", "cpu@anna")
    jobs.records.fail(claim, FAILURE)
    _queued(jobs, QUEUED, "tomorrow")
    return _training(jobs)


def sentences() -> list[str]:
    text = (files("lorajob.demo") / "hindi_test.txt").read_text("utf-8")
    return text.split("\n")[:CLIPS]


def garble(texts: Sequence[str], share: float, seed: int) -> list[str]:
    """The texts with about this share of wrong, missing and added words."""
    chance = random.Random(seed)
    words = [word for text in texts for word in text.split()]
    found = []
    for text in texts:
        heard = []
        for word in text.split():
            what = chance.random()
            if what > share:
                heard.append(word)
            elif what < share * 0.7:
                heard.append(chance.choice(words))
            elif what < share * 0.85:
                heard += [word, chance.choice(words)]
        found.append(" ".join(heard) or words[0])
    return found


def _queued(jobs: Jobs, job_id: str, name: str | None, *sets: str, **tags: str) -> JobRecord:
    values = {"language": "hi", "corpus": "/corpora/cv-corpus-24.0-hi.tar.gz"}
    spec = build_spec(values | {"base_model": "openai/whisper-small"}, sets=sets)
    record = jobs.new_record(spec, job_id, naming=Naming(name, tags))
    job = JobDir(Path(record.folder))
    write_json(job.spec_path, spec.as_written())
    assert jobs.records.create(record)
    return record


def _claim(jobs: Jobs, record: JobRecord, stage: str, worker: str) -> Claim:
    claim = jobs.records.claim(record.id, stage, worker, 600, 3)
    assert isinstance(claim, Claim)
    return claim


def _commit(jobs: Jobs, record: JobRecord, stage: str, result: dict[str, Any]) -> None:
    job = JobDir(Path(record.folder))
    worker = "gpu@bert" if stage in ("train", "evaluate") else "cpu@anna"
    claim = _claim(jobs, record, stage, worker)
    cost = {"seconds": 754.0, "cpu_seconds": 4210.0, "peak_memory_bytes": 5.1e9, "machine": "bert"}
    told = StageResult.model_validate(result | cost)
    path = job.root / "attempts" / f"{stage}-1"
    job.commit(stage, path, told)
    jobs.records.commit(claim, told)


def _finished(
    jobs: Jobs, job_id: str, name: str, share: float, tags: dict[str, str], *sets: str
) -> None:
    record = _queued(jobs, job_id, name, *sets, **tags)
    job = JobDir(Path(record.folder))
    _log(job)
    _preprocess(job)
    _commit(jobs, record, "preprocess", {})
    _history(job.new_attempt("train", 1), 600)
    _commit(jobs, record, "train", {"steps": 600, "loss": 0.61})
    said = sentences()
    heard = {
        "base": garble(said, 0.8, 1),
        "tuned": garble(said, share, 2),
        "delivered": garble(said, share, 2),
    }
    scores = {it: _scores(said, texts) for it, texts in heard.items()}
    out = job.new_attempt("evaluate", 1)
    rows = [
        {"id": f"common_voice_hi_{27_000_000 + n}.mp3", "seconds": 2.5, "reference": text}
        | {model: texts[n] for model, texts in heard.items()}
        for n, text in enumerate(said)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (out / "utterances.jsonl").write_text("".join(lines), "utf-8")
    write_json(out / "metrics.json", scores)
    _commit(jobs, record, "evaluate", scores | _gate())
    out = job.new_attempt("convert", 1)
    (out / "model").mkdir()
    (out / "model" / "model.bin").write_bytes(b"weights" * 1000)
    (out / "model" / "config.json").write_text("{}")
    _commit(jobs, record, "convert", {"model": "convert/model"} | _gate())


def _gate() -> dict[str, Any]:
    guards = [{"name": name, "state": state, "reason": why} for name, state, why in GUARDS]
    return {"gate": "passed", "guards": guards}


def _scores(said: list[str], texts: list[str]) -> dict[str, Any]:
    it = score(said, texts).model_dump()
    wer, cer = (interval(said, texts, name, language="hi") for name in METRICS)
    return it | {"wer_interval": list(wer), "cer_interval": list(cer)}


def _preprocess(job: JobDir) -> None:
    out = job.new_attempt("preprocess", 1)
    time_ = np.arange(40_000) / 16_000
    with ClipWriter(out / "test", "flac") as writer:
        for n, text in enumerate(sentences()):
            tone = (0.2 * np.sin(2 * np.pi * (200 + 10 * n) * time_)).astype(np.float32)
            writer.add(f"common_voice_hi_{27_000_000 + n}.mp3", tone, text, f"speaker-{n % 5}", 9)
    splits = {
        "train": {"clips": 9_373, "hours": 12.04, "speakers": 288, "texts": 9_120},
        "test": {"clips": CLIPS, "hours": 0.03, "speakers": 5, "texts": CLIPS},
    }
    dropped = {"longer than 30 s": {"clips": 3, "examples": ["common_voice_hi_1.mp3"]}}
    write_json(out / "report.json", {"splits": splits, "dropped": dropped, "in_both": {}})


def _history(out: Path, steps: int) -> None:
    chance = random.Random(3)
    rows: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        loss = 0.6 + 2.4 * np.exp(-step / 120) + chance.gauss(0, 0.05)
        rate = 1e-3 * min(1.0, step / 50, (steps - step) / (0.4 * steps))
        rows.append({"step": step, "loss": loss, "learning_rate": rate})
        if step % 100 == 0:
            rows[-1] |= {"validation_wer": 60 - step / 20, "validation_cer": 25 - step / 50}
    (out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _training(jobs: Jobs) -> Claim:
    record = _queued(jobs, TRAINS, "with-noise", "augment.use=auto", kind="trial")
    job = JobDir(Path(record.folder))
    _log(job)
    _preprocess(job)
    _commit(jobs, record, "preprocess", {})
    _history(job.new_attempt("train", 1), 240)
    claim = _claim(jobs, record, "train", "gpu@bert")
    report(jobs, claim, 240)
    return claim


def report(jobs: Jobs, claim: Claim, step: int) -> None:
    """Progress of the training."""
    values = {"step": step, "total": 600, "loss": 0.94, "eta_seconds": 1260.0}
    jobs.records.touch(claim, Progress.model_validate(values), 600)


def _log(job: JobDir) -> None:
    for stage in ("preprocess", "train"):
        path = job.log_path(stage)
        path.parent.mkdir(exist_ok=True)
        lines = [
            f"2026-11-01 09:{n // 60:02d}:{n % 60:02d} INFO step {n}: loss <{3 / n:.3f}>"
            for n in range(1, 120)
        ]
        path.write_text("\n".join(lines) + "\n", "utf-8")
