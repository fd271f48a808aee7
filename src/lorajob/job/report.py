"""How a running stage tells its supervisor what it does, and hears that it should stop.

Events are JSON, one object a line, on standard output:

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

# exit codes of a stage's process beside 0
EXIT_FAILED = 1
EXIT_STOPPED = 3
EXIT_BROKEN = 4


class Progress(AsWritten):
    """How far a stage is. Each field is set if the stage says it; `phase` and others are kept."""

    step: int | None = None
    total: int | None = None
    eta_seconds: float | None = None
    checkpoint: int | None = None  # the newest step that training has saved
    loss: float | None = None  # nats a token
    learning_rate: float | None = None
    tokens_per_second: float | None = None

    @property
    def share(self) -> float:
        """How much of the stage is done, 0 to 1; 0 if that is not known."""
        return (self.step or 0) / self.total if self.total else 0.0


class Report:
    """The line from a stage to whoever started it."""

    def __init__(self, stage: str, stream: TextIO | None = None) -> None:
        self.stage = stage
        self.stop_requested = False
        self._stream = stream or sys.stdout
        self._started = time.monotonic()

    def progress(self, step: int, total: int, **fields: Any) -> None:
        """Say that `step` of `total` is done; an eta is added unless the caller knows better."""
        seconds = time.monotonic() - self._started
        eta = seconds * (total - step) / step if step else None
        self._send("progress", step=step, total=total, **({"eta_seconds": eta} | fields))

    def result(self, result: StageResult) -> None:
        self._send("result", result=result.as_json())

    def error(self, kind: str, message: str) -> None:
        self._send("error", kind=kind, message=message)

    def check_stop(self) -> None:
        """Raise StageStopped if a stop was asked for. For stages that keep no checkpoint."""
        if self.stop_requested:
            raise StageStopped(f"{self.stage} was asked to stop")

    def _send(self, event: str, **fields: Any) -> None:
        line = {"event": event, "stage": self.stage, **fields}
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()
