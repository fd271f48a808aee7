"""A job whose files are in a store: fetched before a stage, brought there after it.

Both go on under the stage's lease, and try for a quarter of an hour to reach a store that is
unavailable. While the stage runs, its checkpoints and its log follow it there.
"""

import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lorajob.errors import LorajobError
from lorajob.job.jobdir import MANIFEST, STAGES, JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.storage.store import Check, GoneError, Store, StoreError
from lorajob.worker.artifacts import workplace
from lorajob.worker.artifacts.checkpoints import fetch_checkpoint
from lorajob.worker.artifacts.follower import Follower
from lorajob.worker.artifacts.job_files import JobFiles, LoadRecord, LocalJob, RunStage
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.artifacts.transfer import Errand, failed_transfer, while_there
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim
from lorajob.worker.supervision.outcome import Committed, Listener, Outcome, Stopped
from lorajob.worker.supervision.watcher import Watcher

LOG = re.compile(r"log/\w+/(\d+)\.log")

logger = logging.getLogger(__name__)


class StoredJob(JobFiles):
    """A job in a store, and its copy on this machine. The copies of all jobs are kept to
    `room_bytes`.
    """

    def __init__(self, stored: JobStore, room_bytes: float) -> None:
        self.location = stored.store
        self._stored = stored
        self._room_bytes = room_bytes

    @property
    def _name(self) -> str:
        return self._stored.store.url

    def last_attempt(self, stage: str) -> int:
        try:
            return self._stored.last_attempt(stage)
        except StoreError as error:  # the stage fails for the same reason, if that lasts
            logger.warning("%s: %s", self._stored.job.root.name, error)
            return 0

    @contextmanager
    def local(self, load: LoadRecord, *stages: str) -> Iterator[JobDir]:
        record = load()
        if not record.location.remote:  # a job from before there was a store
            with LocalJob(self._stored.job.root).local(load) as here:
                yield here
            return
        stored = JobStore(record.folder, self._stored.job.root.parent)
        with workplace.in_use(stored):
            stored.fetch_spec()
            for stage in stages:
                if record.stages[stage].state == "succeeded":
                    stored.fetch_stage(stage, record.stages[stage].attempt)
            yield stored.job
        workplace.make_room(stored, self._room_bytes)

    @contextmanager
    def logs(self, load: LoadRecord) -> Iterator[tuple[JobDir, Callable[[], None]]]:
        store = Store(load().folder)
        with tempfile.TemporaryDirectory(prefix="lorajob-logs-") as name:
            folder = JobDir(Path(name))
            yield folder, lambda: fetch_logs(store, folder)

    @contextmanager
    def outline(self) -> Iterator[tuple[JobDir, dict[str, int]]]:
        """In a temporary folder, as if the job lay there without its large files."""
        stored = self._stored
        with tempfile.TemporaryDirectory(prefix="lorajob-rebuild-") as name:
            folder = JobDir(Path(name) / stored.job.root.name)
            folder.root.mkdir(parents=True)
            for file in ("spec.json", "job.json"):
                if (data := stored.store.read(file)) is not None:
                    (folder.root / file).write_bytes(data)
            pointers = {}
            for stage in STAGES:
                if fences := stored.attempts(stage):
                    pointers[stage] = max(fences)
                    manifest = stored.manifest(stage, pointers[stage])
                    write_json(folder.stage_dir(stage) / MANIFEST, manifest)
                last = stored.last_attempt(stage)
                (folder.root / "attempts" / f"{stage}-{last}").mkdir(parents=True)
            yield folder, pointers

    def withdraw(self) -> None:
        """Remove spec.json first: an attempt that writes a file which the removal did not list
        finds that the job is gone.
        """
        self._stored.store.remove("spec.json")
        self._stored.store.remove()

    def remove(self) -> None:
        """A copy that is in use stays: until its stage ends, or if a command reads it, until room
        is needed.
        """
        self.withdraw()
        workplace.drop_copy(self._stored.job.root)

    # -- a stage

    def _run(self, record: JobRecord, claim: Claim, errand: Errand, run: RunStage) -> Outcome:
        """The copy of a job that was pruned meanwhile is removed: what it holds and the store
        lacks would keep it for ever.
        """
        stored = self._stored
        with workplace.in_use(stored):
            outcome = _run_watched(stored, record, claim, errand, run)
        if is_pruned(stored, errand.watcher):
            workplace.drop_copy(stored.job.root)
        workplace.make_room(stored, self._room_bytes)
        return outcome


def fetch_logs(store: Store, folder: JobDir) -> None:
    """Put into `folder` what all attempts on all machines have said so far."""
    for stage in STAGES:
        fences = sorted(
            int(match[1])
            for name in store.names(f"log/{stage}")
            if (match := LOG.fullmatch(name)) is not None
        )
        text = b"".join(store.read(f"log/{stage}/{fence}.log") or b"" for fence in fences)
        if text:
            path = folder.log_path(stage)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)


def _run_watched(
    stored: JobStore, record: JobRecord, claim: Claim, errand: Errand, run: RunStage
) -> Outcome:
    try:
        begun = errand.run(lambda check: begin(stored, record, claim, check))
        if isinstance(begun, Stopped):
            return begun
        if begun is not None:
            logger.info("%s %s was finished before, and is taken over", claim.job_id, claim.stage)
            return Committed(begun)
        return _run_followed(stored, claim, errand, run)
    except LorajobError as error:
        return failed_transfer(error)


def begin(stored: JobStore, record: JobRecord, claim: Claim, check: Check) -> StageResult | None:
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


def _run_followed(stored: JobStore, claim: Claim, errand: Errand, run: RunStage) -> Outcome:
    follower = Follower(stored, claim)
    with follower:
        outcome = run(stored.job, Watcher([follower, errand.watcher]))
    if outcome == Stopped("superseded"):
        return outcome  # another attempt has the stage: the files here are of no use

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


def is_pruned(stored: JobStore, watcher: Listener) -> bool:
    """Whether neither Redis nor the store knows the job. If only one of them does not, it was
    wiped by mistake, and the copy here may be the last of the job.
    """
    if watcher.hear(None) != "forgotten":
        return False
    try:
        stored.read_spec()
    except StoreError as error:
        return isinstance(error, GoneError)  # any other is of a store that is unavailable
    return False
