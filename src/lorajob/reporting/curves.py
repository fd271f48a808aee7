"""Reads the curves of a training, finished or running, from its history.jsonl."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from lorajob.job.history import HISTORY, read_history
from lorajob.job.jobdir import JobDir

CURVE_POINTS = 400  # at most; more cannot be told apart in a chart


class _Step(BaseModel, frozen=True):
    """A row of history.jsonl: a step, or a validation after it."""

    step: int
    loss: float | None = None
    learning_rate: float = 0.0
    validation_wer: float | None = None
    validation_cer: float | None = None


@dataclass(frozen=True)
class Curves:
    """What a training has measured by step: `loss` and `learning_rate` in `steps`, the error rates
    of the held-back clips, in percent, in `validation`.
    """

    steps: list[dict[str, float]]
    validation: list[dict[str, float]]


def read_curves(path: Path, running: bool = False) -> Curves:
    """The curves in a history.jsonl and the closed parts beside it; empty if the file is missing.

    While the training is `running`, a last line without its end is left out. Raises ValidationError
    and OSError.
    """
    if not path.is_file():
        return Curves([], [])
    data = read_history(path.parent)
    if running:
        data, _, _ = data.rpartition(b"\n")
    steps = [_Step.model_validate_json(line) for line in data.splitlines()]
    return Curves(_curve(steps), _validation(steps))


def history_path(job: JobDir) -> Path | None:
    """The history of the job's training: of the finished stage, else of its newest attempt; None
    if no training has begun in this folder.
    """
    found = job.stage_dir("train") / HISTORY
    if found.is_file():
        return found
    paths = [*job.root.glob(f"attempts/train-*/{HISTORY}")]
    paths += job.root.glob(f"checkpoints/[0-9]*/step-*/{HISTORY}")
    return max(paths, key=_modified, default=None)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    # The attempt has ended meanwhile.
    except OSError:
        return 0.0


def _validation(steps: Sequence[_Step]) -> list[dict[str, float]]:
    """The error rates of the clips that training held back, in percent, by step."""
    return [
        {"step": it.step, "wer": it.validation_wer, "cer": it.validation_cer}
        for it in steps
        if it.validation_wer is not None and it.validation_cer is not None
    ]


def _curve(steps: Sequence[_Step]) -> list[dict[str, float]]:
    """The steps of a training, at most CURVE_POINTS. Each point is the mean of its steps."""
    rows = [it for it in steps if it.loss is not None]
    size = -(-len(rows) // CURVE_POINTS) or 1
    points = []
    for start in range(0, len(rows), size):
        group = rows[start : start + size]
        loss = sum(it.loss or 0.0 for it in group) / len(group)
        rate = sum(it.learning_rate for it in group) / len(group)
        points.append({"step": group[-1].step, "loss": loss, "learning_rate": rate})
    return points
