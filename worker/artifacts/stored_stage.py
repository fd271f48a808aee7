"""A stage of a job whose files are in a store: fetched before it, brought there after it.

Both go on under the stage's lease, and try for a quarter of an hour to reach a store that is away.
While the stage runs, its checkpoints and its log follow it there.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lorajob.corpora.remote import fetch, in_use
from lorajob.errors import LorajobError
from lorajob.job.jobdir import JobDir
from lorajob.job.results import StageResult
from lorajob.storage.store import Check, DamageError, GoneError, StoreError
from lorajob.storage.urls import is_url, public
from lorajob.worker.artifacts import workplace
from lorajob.worker.artifacts.checkpoints import fetch_checkpoint
from lorajob.worker.artifacts.follower import Follower
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.artifacts.transfer import (
    Errand,
    while_there,
)
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim
from lorajob.worker.supervision.outcome import (
    Committed,
    Failed,
    Outcome,
    Stopped,
    Watch,
)

Run = Callable[[JobDir, Watch], Outcome]
logger = logging.getLogger(__name__)


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
                "retryable", f"corpus: {public(record.corpus)} was removed before it was read"
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
    return Failed("retryable" if away else error.kind, str(error))


def _begin(stored: JobStore, record: JobRecord, claim: Claim, check: Check) -> StageResult | None:
    """Fetch what the stage needs, unless it is finished: then its result. Its job.json says first
    that it runs.
    """
    with while_there(stored):
        record.save()
        adopted = stored.adopt(claim.stage, claim.attempt)
    if adopted is None:
        stored.fetch_for(claim.stage, record, check)
        if claim.stage == "train":
            fetch_checkpoint(stored, check)
    return adopted


def _run(stored: JobStore, claim: Claim, errand: Errand, run: Run) -> Outcome:
    follower = Follower(stored, claim)
    with follower:
        outcome = run(stored.job, follower.watching(errand.watch))
    if outcome == Stopped("superseded"):
        return outcome  # nobody waits for what is here

    def finish(check: Check) -> None:
        with while_there(stored):
            if isinstance(outcome, Committed):
                stored.push(claim.stage, claim.attempt, check)
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


def is_pruned(stored: JobStore, watch: Watch) -> bool:
    """Whether neither Redis nor the store knows the job. Where only one of them does not, it was
    wiped by mistake, and what is here may be the last of the job.
    """
    if watch(None) != "forgotten":
        return False
    try:
        stored.read_spec()
    except StoreError as error:
        return isinstance(error, GoneError)  # any other is of a store that is away
    return False
