"""Transfers under a stage's lease: retried while the store is unavailable, and stoppable."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from lorajob.corpora.remote import fetch, in_use
from lorajob.errors import LorajobError, fault_behind
from lorajob.storage.store import Check, DamageError, GoneError, RefusedError, StoreError
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

REFUSED_TRIES = 3  # by a store that refuses this machine: another one may have the right key
TRIES = 35  # with the pauses below, about a quarter of an hour
LONGEST_PAUSE_SECONDS = 30.0
HANG_SECONDS = 60.0  # longest wait for a transfer that was told to stop but hangs

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The transfer was told to stop."""


@dataclass(frozen=True)
class Errand:
    """Runs transfers and watches them, as a supervisor watches a stage."""

    watcher: Listener
    watch_seconds: float
    grace_seconds: float
    hurry: bool = False  # end within the grace, after a stage that was stopped

    def hurried(self) -> "Errand":
        """The same errand with `hurry`, for transfers after a stage that was stopped."""
        return replace(self, hurry=True)

    def run(self, work: Callable[[Check], Result], refused_tries: int = TRIES) -> Result | Stopped:
        """Do `work` in a thread, and renew the lease meanwhile.

        `refused_tries` is how often a store is asked that refuses this machine. Returns Stopped if
        the watcher asks to stop. Raises what `work` raises.
        """
        stop = threading.Event()
        future: Future[Result] = Future()

        def check() -> None:
            if stop.is_set():
                raise Interrupted

        def target() -> None:
            try:
                future.set_result(retry_store(work, check, refused_tries))
            except BaseException as error:  # `result` raises it again below
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


def retry_store(
    work: Callable[[Check], Result], check: Check, refused_tries: int = TRIES
) -> Result:
    """Do `work`, and retry while the store is unavailable. DamageError is raised at once, and
    RefusedError at the try `refused_tries`.
    """
    for tries in range(TRIES):
        try:
            return work(check)
        except DamageError:
            raise
        except StoreError as error:
            if isinstance(error, RefusedError) and tries + 1 >= refused_tries:
                raise
            logger.warning("the transfer is retried: %s", error)
            resume_at = time.monotonic() + min(LONGEST_PAUSE_SECONDS, 0.5 * 2**tries)
            while time.monotonic() < resume_at:
                check()
                time.sleep(0.1)
    return work(check)


@contextmanager
def while_there(stored: JobStore) -> Iterator[None]:
    """Guard a block that writes files of a job to the store.

    If the job is pruned meanwhile, the files that the block wrote are removed and GoneError is
    raised. GoneError is also raised if the store has no such job at the start.
    """
    stored.read_spec()
    try:
        yield
    finally:  # also after an error, which the removal of the job may have caused
        try:
            stored.read_spec()
        except GoneError:
            stored.store.remove()
            raise


@contextmanager
def corpus_here(record: JobRecord, claim: Claim, errand: Errand) -> Iterator[Outcome | None]:
    """Keep local copies of the corpora that have a url, while preprocessing reads them.

    Yields the outcome of a failed download, or None.
    """
    urls = [it for it in (record.corpus, *record.more_corpora) if local_path(it) is None]
    if claim.stage != "preprocess":
        urls = []
    failed: Outcome | None = None
    with ExitStack() as held:
        for url in dict.fromkeys(urls):
            failed = _fetched(url, errand)
            here = failed is None and held.enter_context(in_use(url))
            if failed is None and not here:  # it was removed to make room since the download
                failed = Failed(
                    "retryable", f"corpus: {public(url)} was removed before it was read"
                )
            if failed is not None:
                break
        yield failed


def _fetched(url: str, errand: Errand) -> Outcome | None:
    """Fetch a corpus. Returns the outcome if that failed."""
    try:
        fetched = errand.run(lambda check: fetch(url, check), REFUSED_TRIES)
    except LorajobError as error:
        return failed_transfer(error)
    return fetched if isinstance(fetched, Stopped) else None


def failed_transfer(error: LorajobError) -> Failed:
    """The outcome of a failed transfer.

    It is retryable if the store was unavailable. A fault of this machine that led to the error
    counts as one, whatever the error is called.
    """
    if isinstance(error, StoreError) and not isinstance(error, DamageError | RefusedError):
        return Failed("retryable", str(error))
    behind = fault_behind(error)
    return Failed(error.kind if behind is None else behind.kind, str(error))
