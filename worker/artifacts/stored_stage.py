"""A stage of a job whose files are in a store: fetched before it, brought there after it.

Both go on under the stage's lease, and try for a quarter of an hour to reach a store that is away.
While the stage runs, its checkpoints and its log follow it there.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from lorajob.corpora.remote import fetch, in_use
from lorajob.errors import LorajobError
from lorajob.job.jobdir import JobDir
from lorajob.storage.store import Check, DamageError, StoreError
from lorajob.storage.urls import is_url, public
from lorajob.worker.artifacts import workplace
from lorajob.worker.artifacts.follower import Follower, fetch_checkpoint
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.pruned import is_pruned, while_there
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim
from lorajob.worker.supervision.supervisor import (
    Committed,
    Failed,
    Outcome,
    Progress,
    Stopped,
    StopReason,
    Watch,
)

TRIES = 35  # with the pauses below, about a quarter of an hour
LONGEST_PAUSE_SECONDS = 30.0
HANG_SECONDS = 60.0  # given to a transfer that was told to stop and waits for the network

Result = TypeVar("Result")
Run = Callable[[JobDir, Watch], Outcome]
logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The transfer was told to stop."""


@dataclass(frozen=True)
class Errand:
    """How transfers are watched, as a supervisor watches a stage."""

    watch: Watch
    watch_seconds: float
    grace_seconds: float

    def hurried(self) -> "Errand":
        """One that ends within the grace of a stage that was stopped."""

        def watch(_: Progress | None) -> StopReason:
            return "lost" if self.watch(None) == "lost" else "shutdown"

        return Errand(watch, self.watch_seconds, self.grace_seconds)

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
                future.set_result(patiently(work, check))
            except BaseException as error:  # whatever it is, `result` raises it below
                future.set_exception(error)

        threading.Thread(target=target, name="transfer", daemon=True).start()
        reason: StopReason | None = None
        give_up_at = float("inf")
        while not wait([future], timeout=self.watch_seconds).done:
            heard = self.watch(None)
            now = time.monotonic()
            if heard is not None and (reason is None or heard == "lost"):
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


def patiently(work: Callable[[Check], Result], check: Check) -> Result:
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
def corpus_here(record: JobRecord, claim: Claim, errand: Errand) -> Iterator[Outcome | None]:
    """Have the corpus of a job here while it is read, where it lies behind a url; yields why it
    could not be had.
    """
    if claim.stage != "preprocess" or not is_url(record.corpus):
        yield None
        return
    failed: Outcome | None = None
    try:
        fetched = errand.run(lambda check: fetch(record.corpus, check))
        failed = fetched if isinstance(fetched, Stopped) else None
    except LorajobError as error:
        failed = _failed(error)
    with in_use(record.corpus) as here:
        if failed is None and not here:  # it was removed to make room, this very moment
            failed = Failed(
                "lost", f"corpus: {public(record.corpus)} was removed before it was read"
            )
        yield failed


def run_stored(
    stored: JobStore,
    record: JobRecord,
    claim: Claim,
    errand: Errand,
    run: Run,
    room_bytes: float,
) -> Outcome:
    """Run the claimed stage between the fetching and the pushing of its files. Folders of jobs here
    are kept to `room_bytes` afterwards; that of a job that was pruned meanwhile is removed, since
    what it holds and the store lacks would keep it for ever.
    """
    with workplace.in_use(stored):
        outcome = _run_watched(stored, record, claim, errand, run)
    if is_pruned(stored, errand.watch):
        workplace.drop_copy(stored.job.root)
    workplace.make_room(stored, room_bytes)
    return outcome


def _run_watched(
    stored: JobStore, record: JobRecord, claim: Claim, errand: Errand, run: Run
) -> Outcome:
    try:
        begun = errand.run(lambda check: _begin(stored, record, claim, check))
        if isinstance(begun, Stopped):
            return begun
        if begun is not None:
            logger.info("%s %s was finished before, and is taken over", claim.job_id, claim.stage)
            return Committed(begun)
        return _run(stored, claim, errand, run)
    except LorajobError as error:
        return _failed(error)


def _failed(error: LorajobError) -> Failed:
    """A store that is away is no fault of the job's; one that is damaged, another attempt finds as
    it is.
    """
    away = isinstance(error, StoreError) and not isinstance(error, DamageError)
    return Failed("lost" if away else error.kind, str(error))


def _begin(
    stored: JobStore, record: JobRecord, claim: Claim, check: Check
) -> dict[str, Any] | None:
    """Fetch what the stage needs, unless it is finished: then its result. Its job.json says first
    that it runs.
    """
    with while_there(stored):
        record.save()
        adopted = stored.adopt(claim.stage, claim.fence)
    if adopted is None:
        stored.fetch_for(claim.stage, record, check)
        if claim.stage == "train":
            fetch_checkpoint(stored, check)
    return adopted


def _run(stored: JobStore, claim: Claim, errand: Errand, run: Run) -> Outcome:
    follower = Follower(stored, claim)
    with follower:
        outcome = run(stored.job, follower.watching(errand.watch))
    if outcome == Stopped("lost"):
        return outcome  # nobody waits for what is here

    def finish(check: Check) -> None:
        with while_there(stored):
            if isinstance(outcome, Committed):
                stored.push(claim.stage, claim.fence, check)
                if claim.stage == "train":
                    follower.remove_checkpoints()
            elif claim.stage == "train":
                follower.push_checkpoint(check)
            follower.push_log()

    if isinstance(outcome, Committed):
        pushed = errand.run(finish)
        return pushed if isinstance(pushed, Stopped) else outcome
    try:
        errand.hurried().run(finish)
    except StoreError as error:  # the outcome stands; this machine has what the store lacks
        logger.warning("%s %s: %s", claim.job_id, claim.stage, error)
    return outcome
