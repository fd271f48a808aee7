"""Writes the checkpoints of a training in a thread, so that the training goes on meanwhile."""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from lorajob.job.history import Rows
from lorajob.training.checkpoint import (
    Snapshot,
    TrainingState,
    prune,
    save_checkpoint,
    take_snapshot,
)
from lorajob.training.trainer import Run

SAVE_SECONDS = {"cpu": 0.0, "cuda": 60.0}  # between two checkpoints; 0: steps are counted
# Whether a report of progress waits for the checkpoint that is being written. On a CPU each step is
# reported, and a step usually takes longer than writing.
REPORT_WAITS = {"cpu": True, "cuda": False}

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes one checkpoint at a time.

    An error of the thread is raised by the next call of `begin`, `before_report` or `wait`.
    """

    def __init__(self, run: Run) -> None:
        kind, wanted = run.accelerator.device.type, run.config.save_seconds
        self.saved = run.step  # the step of the newest checkpoint that is on the disk
        self.asked = run.step  # the step of the newest that was begun
        self.begun_at = time.monotonic()  # when it was begun
        self._seconds = SAVE_SECONDS[kind] if wanted is None else wanted
        self._steps = run.config.save_steps
        self._report_waits = REPORT_WAITS[kind]
        self._keep = run.config.keep_checkpoints
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def due(self, step: int) -> bool:
        """Whether a checkpoint of this step is due: by the clock, or by the number of steps."""
        if self._seconds > 0:
            return time.monotonic() - self.begun_at >= self._seconds
        return step % self._steps == 0

    def begin(
        self,
        folder: Path,
        run: Run,
        state: TrainingState,
        history: Rows,
        validation: Mapping[str, Tensor],
    ) -> None:
        """Copy the training as it is, and begin to write it to FOLDER/step-N.

        Waits for the checkpoint before it, so that one copy is in memory at a time.
        """
        self.wait()
        optimizer = getattr(run.optimizer, "optimizer", run.optimizer)
        snapshot = take_snapshot(run.model, optimizer, state, history, validation)
        before = folder / f"step-{self.asked}"
        self.asked, self.begun_at = run.step, time.monotonic()
        target = folder / f"step-{run.step}"
        self._running = self._thread.submit(self._write, run.step, target, snapshot, before)

    def _write(self, step: int, target: Path, snapshot: Snapshot, before: Path) -> None:
        save_checkpoint(target, snapshot, before)
        prune(target.parent, self._keep)
        log.info("checkpoint of step %d: %s", step, target)

    def before_report(self) -> None:
        """Note a checkpoint that is written. On a CPU, wait for it."""
        if self._running is not None and (self._report_waits or self._running.done()):
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint is written."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
            self.saved = self.asked

    def close(self) -> None:
        """Wait for the thread to end. Logs an error of the thread that no call has raised.

        It does not raise the error, because another one is being raised.
        """
        self._thread.shutdown(wait=True)
        if self._running is not None and (error := self._running.exception()) is not None:
            log.warning("the checkpoint of step %d could not be written: %s", self.asked, error)
