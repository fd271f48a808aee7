"""Where a job stands, from the few fields of its record that tell it."""

import json
from dataclasses import dataclass
from typing import Any

from lorajob.job.jobdir import STAGES
from lorajob.worker.queues import QUEUES
from lorajob.worker.records.record import ENDED

FIELDS = (
    "language", "state", "memory_class", "evaluate.result", *(f"{stage}.state" for stage in STAGES)
)  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """Where one job stands."""

    language: str
    state: str
    stage: str | None  # that waits or runs; None where the job is over
    waits: bool  # for a worker to take its stage
    memory_gb: int  # of the smallest card that holds that stage; 0 for any, and without one
    wer: dict[str, float]  # percent on the test clips, of `base` and `tuned`, once evaluated


def standing_of(
    language: str,
    state: str,
    memory_class: str | None,
    evaluated: str | None,
    stages: list[str | None],
) -> Standing:
    left = [name for name, at in zip(STAGES, stages, strict=True) if at != "succeeded"]
    current = left[0] if left and state not in ENDED else None
    waits = current is not None and stages[STAGES.index(current)] == "queued"
    needs_card = current is not None and QUEUES[current] == "gpu"
    memory_gb = int(memory_class or 0) if needs_card else 0
    return Standing(language, state, current, waits, memory_gb, _wer(evaluated))


def _wer(evaluated: str | None) -> dict[str, float]:
    try:
        result: dict[str, Any] = json.loads(evaluated or "{}")
        return {name: float(result[name]["wer"]) for name in ("base", "tuned") if name in result}
    except (ValueError, TypeError, KeyError):
        return {}
