"""A job whose files are in a store: downloaded before a stage, uploaded after it.

The stage's lease is renewed during both transfers. If the store is unavailable, they are retried
for a quarter of an hour. While the stage runs, its checkpoints and its log are uploaded.
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
from lorajob.worker.artifacts.transfer import REFUSED_TRIES, Errand, failed_transfer, while_there
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim
from lorajob.worker.supervision.outcome import Committed, Listener, Outcome, Stopped
from lorajob.worker.supervision.watcher import Watcher

LOG = re.compile(r"log/\w+/(\d+)\.log")

logger = logging.getLogger(__name__)


class StoredJob(JobFiles):
    """A job in a store, and its copy on this machine.

    The copies of all jobs together take at most `room_bytes`.
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
        except StoreError as error:  # the stage reports the error if it lasts
            logger.warning("%s: %s", self._stored.job.root.name, error)
            return 0

    @contextmanager
    def local(self, load: LoadRecord, *stages: str) -> Iterator[JobDir]:
        record = load()
        if not record.location.remote:  # the job was submitted before there was a store
            with LocalJob(self._stored.job.root).local(load) as here:
                yield here
            return
        stored = JobStore(record.folder, self._stored.job.root.parent)
        with workplace.hold_copy(stored):
            stored.fetch_spec()
            for name in stages:
                stage, _, part = name.partition("/")
                if record.stages[stage].state == "succeeded":
                    stored.fetch_stage(stage, record.stages[stage].attempt, (part,))
            yield stored.job
        workplace.trim_copies(stored, self._room_bytes)

    @contextmanager
    def logs(self, load: LoadRecord) -> Iterator[tuple[JobDir, Callable[[], None]]]:
        store = Store(load().folder)
        with tempfile.TemporaryDirectory(prefix="lorajob-logs-") as name:
            folder = JobDir(Path(name))
            yield folder, lambda: fetch_logs(store, folder)

    @contextmanager
    def outline(self) -> Iterator[tuple[JobDir, dict[str, int]]]:
        """A temporary folder with the small files of the job."""
        stored = self._stored
        with tempfile.TemporaryDirectory(prefix="lorajob-rebuild-") as name:
            folder = JobDir(Path(name) / stored.job.root.name)
            folder.root.mkdir(parents=True)
            for file in ("spec.json", "job.json"):
                if (data := stored.store.read(file)) is not None:
                    (folder.root / file).write_bytes(data)
            pointers = {}
            for stage in STAGES:
                if attempts := stored.attempts(stage):
                    pointers[stage] = max(attempts)
                    manifest = stored.manifest(stage, pointers[stage])
                    write_json(folder.stage_dir(stage) / MANIFEST, manifest)
                last = stored.last_attempt(stage)
                (folder.root / "attempts" / f"{stage}-{last}").mkdir(parents=True)
            yield folder, pointers

    def withdraw(self) -> None:
        """Remove the files, spec.json first.

        An attempt may write a file after the removal has listed the files. It then finds spec.json
        missing and removes what it wrote.
        """
        self._stored.store.remove("spec.json")
        self._stored.store.remove()

    def remove(self) -> None:
        """Remove the files, and the copy on this machine unless it is in use.

        A copy in use by a stage is removed when the stage ends. A copy that a command reads is
        removed when its space is needed.
        """
        self.withdraw()
        workplace.drop_copy(self._stored.job.root)

    # -- a stage

    def _run(self, record: JobRecord, claim: Claim, errand: Errand, run: RunStage) -> Outcome:
        """Run the stage in the copy of the job.

        If the job was pruned meanwhile, its copy is removed here. It would otherwise stay for ever,
        since it holds files that the store lacks.
        """
        stored = self._stored
        with workplace.hold_copy(stored):
            outcome = _run_watched(stored, record, claim, errand, run)
        if is_pruned(stored, errand.watcher):
            workplace.drop_copy(stored.job.root)
        workplace.trim_copies(stored, self._room_bytes)
        return outcome


def fetch_logs(store: Store, folder: JobDir) -> None:
    """Download the logs of all attempts on all machines to `folder`."""
    for stage in STAGES:
        attempts = sorted(
            int(match[1])
            for name in store.names(f"log/{stage}")
            if (match := LOG.fullmatch(name)) is not None
        )
        text = b"".join(store.read(f"log/{stage}/{attempt}.log") or b"" for attempt in attempts)
        if text:
            path = folder.log_path(stage)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)


def _run_watched(
    stored: JobStore, record: JobRecord, claim: Claim, errand: Errand, run: RunStage
) -> Outcome:
    try:
        begun = errand.run(lambda check: begin(stored, record, claim, check), REFUSED_TRIES)
        if isinstance(begun, Stopped):
            return begun
        if begun is not None:
            logger.info("%s %s was finished before, and is taken over", claim.job_id, claim.stage)
            return Committed(begun)
        return _run_followed(stored, claim, errand, run)
    except LorajobError as error:
        return failed_transfer(error)


def begin(stored: JobStore, record: JobRecord, claim: Claim, check: Check) -> StageResult | None:
    """Write job.json, then download what the stage needs.

    If an earlier attempt finished the stage, its result is returned and nothing is downloaded.
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
        return outcome  # another attempt has the stage, so these files are not needed

    def finish(check: Check) -> None:
        with while_there(stored):
            if isinstance(outcome, Committed):
                stored.push(claim.stage, claim.attempt, check)
                if claim.stage == "train":
                    follower.remove_checkpoints()
                if claim.stage == STAGES[-1]:
                    stored.push_report()
            elif claim.stage == "train":
                follower.push_checkpoint(check)
            follower.push_log()

    if isinstance(outcome, Committed):
        pushed = errand.run(finish)
        return pushed if isinstance(pushed, Stopped) else outcome
    try:
        errand.hurried().run(finish)
    except StoreError as error:  # the outcome stays; this machine keeps what the store lacks
        logger.warning("%s %s: %s", claim.job_id, claim.stage, error)
    return outcome


def is_pruned(stored: JobStore, watcher: Listener) -> bool:
    """Whether neither Redis nor the store has the job.

    If only one of them has lost it, that one may have been wiped by mistake, and the copy on this
    machine may be the last.
    """
    if watcher.hear(None) != "forgotten":
        return False
    try:
        stored.read_spec()
    except StoreError as error:
        return isinstance(error, GoneError)  # other errors mean that the store is unavailable
    return False
