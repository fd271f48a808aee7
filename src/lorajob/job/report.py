"""How a running stage reports to its supervisor, and how it learns that it should stop.

Not to be confused with corpora/report.py (counts of dropped clips) and reporting/ (pages on a job).

Events are JSON objects on standard output, one on each line:

    {"event": "progress", "stage": "train", "step": 5, "total": 180, "loss": 2.1, "eta_seconds": 60}
    {"event": "result", "stage": "train", "result": {...}}
    {"event": "error", "stage": "train", "kind": "corpus", "message": "one sentence"}
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from lorajob.errors import StageStopped
from lorajob.job.results import AsWritten, StageResult

# Exit codes of a stage's process, besides 0.
EXIT_FAILED = 1
EXIT_STOPPED = 3
EXIT_BROKEN = 4
# A rate forgets what is older than this time, or than this share of the stage, by two thirds.
FADE_SECONDS = 60.0
FADE_SHARE = 0.2
SHARE_TO_TRUST = 0.05  # of a pass, after which its own pace counts, not its forecast


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


class Pace:
    """Forecasts the end of a stage by its recent rate, which old steps leave slowly.

    Steps and seconds are sums that fade with a time constant. The time before the first report,
    which goes into loading models, does not count.
    """

    def __init__(self) -> None:
        self._steps = self._seconds = 0.0
        self._last: tuple[int, float] | None = None  # step, monotonic seconds
        self._began: float | None = None

    def eta(self, step: int, total: int, now: float) -> float | None:
        """Seconds until `total`, if `step` steps are done `now`; None until a step has ended."""
        if self._last is None or self._began is None or step < self._last[0]:
            self._steps = self._seconds = 0.0
            self._last, self._began = (step, now), now
        elif step > self._last[0]:
            passed = now - self._last[1]
            constant = max(FADE_SECONDS, FADE_SHARE * (now - self._began))
            kept = math.exp(-passed / constant)
            self._steps = self._steps * kept + step - self._last[0]
            self._seconds = self._seconds * kept + passed
            self._last = step, now
        if step >= total:
            return 0.0
        if not self._steps:
            return None
        since = now - self._last[1]  # in the step that runs now
        return max(0.0, (total - step) * self._seconds / self._steps - since)


class Report:
    """Writes the events of a stage, and holds the request to stop."""

    def __init__(self, stage: str, stream: TextIO | None = None) -> None:
        self.stage = stage
        self.stop_requested = False
        self._stream = stream or sys.stdout
        self._pace = Pace()

    def progress(self, step: int, total: int, **fields: Any) -> None:
        """Report that `step` of `total` is done. Adds an eta unless `fields` has eta_seconds."""
        eta = self._pace.eta(step, total, time.monotonic())
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


class PassProgress:
    """Reports progress of a stage of several passes, and checks for a stop.

    `passes` has the steps of each pass by its name, in order. `seconds` has the time of each pass
    that has ended.
    """

    def __init__(self, report: Report, passes: Mapping[str, int]) -> None:
        self._report = report
        self._left, self._total = list(passes.items()), sum(passes.values())
        self._before = self._most = 0
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, float] = {}  # seconds of passes, by their names
        self._share = 0.0  # of the current pass
        self._started = time.monotonic()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Forecast the passes that remain, and show the sum at once.

        As a pass goes on, its own pace replaces the forecast.
        """
        self.expected = dict(seconds)
        self.done(0)

    def done(self, steps: int, phase: str = "") -> None:
        """Note that `steps` steps of the current pass are done. The count never falls.

        The pass's name is shown, or `phase`. Raises StageStopped if a stop was requested.
        """
        self._most = max(self._most, self._before + steps)
        shown = phase or (self._left[0][0] if self._left else "")
        fields: dict[str, object] = {"phase": shown} if shown else {}
        if self.expected and self._left:
            fields["eta_seconds"] = self._eta(steps / max(1, self._left[0][1]))
        self._report.progress(self._most, self._total, **fields)
        self._report.check_stop()

    def _eta(self, share: float) -> float:
        """Seconds that remain when `share` of the current pass is done."""
        self._share = max(self._share, min(share, 1.0))
        names = [name for name, _ in self._left]
        now = self.expected.get(names[0], 0.0)
        if self._share >= SHARE_TO_TRUST:
            now = (time.monotonic() - self._started) / self._share
        return now * (1 - self._share) + sum(self.expected.get(name, 0.0) for name in names[1:])

    def passed(self) -> None:
        """Note that the current pass has ended."""
        name, steps = self._left.pop(0)
        self._before += steps
        self._share = 0.0
        now = time.monotonic()
        self.seconds[name], self._started = round(now - self._started, 2), now
        self.done(0)
