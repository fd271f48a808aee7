"""Transfers under a stage's lease: retried while the bucket is away, and stopped with the stage."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from lorajob.corpora.remote import fetch, in_use
from lorajob.errors import LorajobError
from lorajob.storage.store import Check, DamageError, GoneError, StoreError
from lorajob.storage.urls import local_path, public
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim
from lorajob.worker.supervision.outcome import (
    Failed,
    Listener,
    Outcome,
    Stopped,
    StopReason,
)

TRIES = 35  # with the pauses below, about a quarter of an hour
LONGEST_PAUSE_SECONDS = 30.0
HANG_SECONDS = 60.0  # given to a transfer that was told to stop and waits for the network

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The transfer was told to stop."""


@dataclass(frozen=True)
class Errand:
    """How transfers are watched, as a supervisor watches a stage."""

    watcher: Listener
    watch_seconds: float
    grace_seconds: float
    hurry: bool = False  # end within the grace, as for a stage that was stopped

    def hurried(self) -> "Errand":
        """The same, for what follows a stage that was stopped."""
        return replace(self, hurry=True)

    def run(self, work: Callable[[Check], Result]) -> Result | Stopped:
        """Do `work` in a thread and keep the lease meanwhile; Stopped where that is called off.

        Raises what `work` raises.
        """
        stop = threading.Event()
        future: Future[Result] = Future()

        def check() -> None:
            if stop.is_set():
                raise Interrupted

        def target() -> None:
            try:
                future.set_result(retry_store(work, check))
            except BaseException as error:  # whatever it is, `result` raises it below
                future.set_exception(error)

        threading.Thread(target=target, name="transfer", daemon=True).start()
        reason: StopReason | None = None
        give_up_at = float("inf")
        while not wait([future], timeout=self.watch_seconds).done:
            heard = self.watcher.hear(None)
            if self.hurry and heard != "superseded":
                heard = "shutdown"
            now = time.monotonic()
            if heard is not None and (reason is None or heard == "superseded"):
                patience = self.grace_seconds if heard == "shutdown" else 0.0
                reason, give_up_at = heard, now + patience
            if now >= give_up_at:
                stop.set()
            if reason is not None and now >= give_up_at + HANG_SECONDS:
                return Stopped(reason)
        try:
            return future.result()
        except Interrupted:
            return Stopped(reason or "shutdown")


def retry_store(work: Callable[[Check], Result], check: Check) -> Result:
    """Work, again and again while the store is away; damage is told at once."""
    for tries in range(TRIES):
        try:
            return work(check)
        except DamageError:
            raise
        except StoreError as error:
            logger.warning("the store is asked again: %s", error)
            resume_at = time.monotonic() + min(LONGEST_PAUSE_SECONDS, 0.5 * 2**tries)
            while time.monotonic() < resume_at:
                check()
                time.sleep(0.1)
    return work(check)


@contextmanager
def while_there(stored: JobStore) -> Iterator[None]:
    """For a block that writes to a job's place in the store: where the job is pruned meanwhile,
    what the block wrote is removed. Raises GoneError then, and without a job there to begin with.
    """
    stored.read_spec()
    try:
        yield
    finally:  # however it ended: perhaps it was called off for this very reason
        try:
            stored.read_spec()
        except GoneError:
            stored.store.remove()
            raise


@contextmanager
def corpus_here(record: JobRecord, claim: Claim, errand: Errand) -> Iterator[Outcome | None]:
    """Keep a corpus that lies behind a url on this machine while preprocessing reads it. Yields
    why it could not be fetched, or None.
    """
    if claim.stage != "preprocess" or local_path(record.corpus) is not None:
        yield None
        return
    failed: Outcome | None = None
    try:
        fetched = errand.run(lambda check: fetch(record.corpus, check))
        failed = fetched if isinstance(fetched, Stopped) else None
    except LorajobError as error:
        failed = failed_transfer(error)
    with in_use(record.corpus) as here:
        if failed is None and not here:  # it was removed to make room, this very moment
            failed = Failed(
                "retryable", f"corpus: {public(record.corpus)} was removed before it was read"
            )
        yield failed


def failed_transfer(error: LorajobError) -> Failed:
    """An unavailable store is no fault of the job's: its stage is tried again. What is damaged
    there, another attempt finds as it is.
    """
    away = isinstance(error, StoreError) and not isinstance(error, DamageError)
    return Failed("retryable" if away else error.kind, str(error))
