"""Uploads the checkpoints and the log of a running stage to the store of its job."""

import logging
import threading

from lorajob.errors import LorajobError
from lorajob.storage.store import Check, unhurried
from lorajob.worker.artifacts.checkpoints import push_checkpoint
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.artifacts.transfer import while_there
from lorajob.worker.records.records import Claim
from lorajob.worker.supervision.outcome import Progress

LOG_SECONDS = 20.0  # between two looks at the log of a running stage

logger = logging.getLogger(__name__)


class Follower:
    """Uploads in a thread while its block runs. An unavailable store does not stop the stage."""

    def __init__(self, stored: JobStore, claim: Claim) -> None:
        self._stored = stored
        self._claim = claim
        path = stored.job.log_path(claim.stage)
        self._log_start = path.stat().st_size if path.is_file() else 0
        self._log_pushed = self._log_start
        self._saved = 0  # the newest checkpoint that the stage reported
        self._wake = threading.Condition()
        self._busy = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def hear(self, progress: Progress | None) -> None:
        """Have the thread upload a checkpoint that the stage has saved."""
        saved = (progress.checkpoint if progress else None) or 0
        if saved > self._saved:
            with self._wake:
                self._saved = saved
                self._wake.notify()

    def push_checkpoint(self, check: Check = unhurried) -> None:
        """Upload the newest local checkpoint, and remove older ones from the store."""
        with self._busy:
            push_checkpoint(self._stored, check)

    def _push_soon(self, checkpoint: bool) -> None:
        """Upload the log and, with `checkpoint`, the newest one, unless the stage has ended."""
        with self._busy:
            if self._ended:
                return
            with while_there(self._stored):
                if checkpoint:
                    push_checkpoint(self._stored)
                self._push_log()

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints from the store, once the adapter there has replaced them."""
        with self._busy:
            self._stored.store.remove("checkpoints")

    def push_log(self) -> None:
        """Upload the log if it has grown, after an upload that is under way."""
        with self._busy:
            self._push_log()

    def _push_log(self) -> None:
        path = self._stored.job.log_path(self._claim.stage)
        size = path.stat().st_size if path.is_file() else 0
        if size > self._log_pushed:
            self._stored.push_log(self._claim.stage, self._claim.attempt, self._log_start)
            self._log_pushed = size

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._wake:
            self._ended = True
            self._wake.notify()

    def _run(self) -> None:
        pushed = 0
        while True:
            with self._wake:
                if not self._ended and self._saved == pushed:
                    self._wake.wait(LOG_SECONDS)
                if self._ended:
                    return
                due, saved = self._saved > pushed, self._saved
            try:
                self._push_soon(due)
                pushed = saved
            except (LorajobError, OSError) as error:
                logger.warning("%s: %s", self._claim.job_id, error)
                pushed = max(pushed, saved)  # the next checkpoint is tried again
