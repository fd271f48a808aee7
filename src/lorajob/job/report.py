"""How a running stage reports to its supervisor, and how it learns that it should stop.

Not to be confused with corpora/report.py (counts of dropped clips) and reporting/ (pages on a job).

Events are JSON objects on standard output, one on each line:

    {"event": "progress", "stage": "train", "step": 5, "total": 180, "loss": 2.1, "eta_seconds": 60}
    {"event": "result", "stage": "train", "result": {...}}
    {"event": "error", "stage": "train", "kind": "corpus", "message": "one sentence"}
"""

import json
import sys
import time
from typing import Any, TextIO

from lorajob.errors import StageStopped
from lorajob.job.results import AsWritten, StageResult

# Exit codes of a stage's process, besides 0.
EXIT_FAILED = 1
EXIT_STOPPED = 3
EXIT_BROKEN = 4


class Progress(AsWritten):
    """Progress of a stage. A field is None if the stage does not report it. Others are kept."""

    step: int | None = None
    total: int | None = None
    eta_seconds: float | None = None
    checkpoint: int | None = None  # the newest step that training has saved
    loss: float | None = None  # nats for each token
    learning_rate: float | None = None
    tokens_per_second: float | None = None

    @property
    def share(self) -> float:
        """The share of the stage that is done, 0 to 1; 0 if it is unknown."""
        return (self.step or 0) / self.total if self.total else 0.0


class Report:
    """Writes the events of a stage, and holds the request to stop."""

    def __init__(self, stage: str, stream: TextIO | None = None) -> None:
        self.stage = stage
        self.stop_requested = False
        self._stream = stream or sys.stdout
        self._started = time.monotonic()

    def progress(self, step: int, total: int, **fields: Any) -> None:
        """Report that `step` of `total` is done. Adds an eta unless `fields` has eta_seconds."""
        seconds = time.monotonic() - self._started
        eta = seconds * (total - step) / step if step else None
        self._send("progress", step=step, total=total, **({"eta_seconds": eta} | fields))

    def result(self, result: StageResult) -> None:
        self._send("result", result=result.as_json())

    def error(self, kind: str, message: str) -> None:
        self._send("error", kind=kind, message=message)

    def check_stop(self) -> None:
        """Raise StageStopped if a stop was requested. For stages without checkpoints."""
        if self.stop_requested:
            raise StageStopped(f"{self.stage} was asked to stop")

    def _send(self, event: str, **fields: Any) -> None:
        line = {"event": event, "stage": self.stage, **fields}
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()
