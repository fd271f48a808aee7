"""Short trainings: their settings, a report that stops one, and what they leave."""

import json
from typing import Any

from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report

FLOAT32 = "train.precision=float32"
SHORT = (
    "train.batch_clips=2",
    "train.rank=8",
    "train.threads=1",
    "train.save_steps=3",
    FLOAT32,
    "train.learning_rate=1e-3",
    "train.dropout=0.1",
)


class StopAt(Report):
    """Asks for a stop once a step is done."""

    def __init__(self, step: int) -> None:
        super().__init__("train")
        self.step = step

    def progress(self, step: int, total: int, **fields: Any) -> None:
        super().progress(step, total, **fields)
        self.stop_requested = step == self.step


def history(job: JobDir) -> list[dict[str, Any]]:
    lines = (job.stage_dir("train") / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def adapter_bytes(job: JobDir) -> bytes:
    return (job.stage_dir("train") / "adapter" / "adapter_model.safetensors").read_bytes()
