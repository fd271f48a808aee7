"""The files of one job, in a folder of this machine or in a store.

`lookup.open_job` opens a LocalJob, below, or a StoredJob.
"""

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from lorajob.errors import JobNotFoundError, LorajobError
from lorajob.job.jobdir import JobDir
from lorajob.storage.folders import put_aside
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store
from lorajob.worker.artifacts.transfer import Errand, corpus_here
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim
from lorajob.worker.supervision.outcome import Listener, Outcome

LoadRecord = Callable[[], JobRecord]  # called only if the files are not enough
RunStage = Callable[[JobDir, Listener], Outcome]

logger = logging.getLogger(__name__)


class JobFiles(ABC):
    """What commands and workers do with a job's files.

    Methods raise OSError for a folder that cannot be read or written, and StoreError for a store
    that is unavailable.
    """

    location: Folder | Store

    def read_record(self) -> JobRecord | None:
        """The record in job.json; None if it is missing. Raises RecordError if it is damaged."""
        data = self.location.read("job.json")
        return None if data is None else JobRecord.parse(data, self._name)

    def put_spec(self, spec: Mapping[str, object]) -> None:
        """Write spec.json, the first file of a new job."""
        self.location.write_json("spec.json", spec)

    def has_spec(self) -> bool:
        """Whether the job has files, with or without a record in Redis."""
        return self.location.read("spec.json") is not None

    def run(self, record: JobRecord, claim: Claim, errand: Errand, run: RunStage) -> Outcome:
        """Run the claimed stage in a folder of this machine that has what the stage needs."""
        with corpus_here(record, claim, errand) as failed:
            return failed or self._run(record, claim, errand, run)

    def end_lease(self, claim: Claim) -> None:
        """End the lease in job.json of an attempt that ended because Redis has no record any more.

        `rebuild` then takes the job at once. An error is only logged.
        """
        try:
            record = self.read_record()
            if record is None or record.stages[claim.stage].attempt != claim.attempt:
                return
            stage = record.stages[claim.stage].model_copy(update={"lease": None})
            changes = {"stages": record.stages | {claim.stage: stage}}
            written = record.model_copy(update=changes).model_dump(mode="json")
            self.location.write_json("job.json", written)
        except (LorajobError, OSError) as error:
            logger.info("%s: the lease in job.json was not ended: %s", claim.job_id, error)

    def withdraw(self) -> None:
        """Remove the files of a job whose submission failed, as far as possible."""
        self.location.remove()

    @property
    @abstractmethod
    def _name(self) -> Path | str:
        """The name of job.json in errors."""

    @abstractmethod
    def _run(self, record: JobRecord, claim: Claim, errand: Errand, run: RunStage) -> Outcome: ...

    @abstractmethod
    def last_attempt(self, stage: str) -> int:
        """The highest number of an attempt at `stage` that left files.

        Returns 0 without such an attempt, or if the store or folder is unavailable.
        """

    @abstractmethod
    def local(self, load: LoadRecord, *stages: str) -> AbstractContextManager[JobDir]:
        """The job's folder on this machine, with its spec and the files of the succeeded `stages`.

        `preprocess/test` stands for those files of preprocess whose names start with `test`.
        The folder is not removed while the block runs. Raises JobNotFoundError.
        """

    @abstractmethod
    def logs(self, load: LoadRecord) -> AbstractContextManager[tuple[JobDir, Callable[[], None]]]:
        """A folder with the job's logs, and a function that brings them up to date."""

    @abstractmethod
    def outline(self) -> AbstractContextManager[tuple[JobDir, dict[str, int]]]:
        """A folder with spec, job.json and the manifests of the committed stages.

        Also yields the attempt that committed each stage, as far as the files tell it.
        """

    @abstractmethod
    def remove(self) -> None:
        """Remove the files of a job that is pruned."""


class LocalJob(JobFiles):
    """A job whose files are in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.location = Folder(root)
        self._job = JobDir(root)

    @property
    def _name(self) -> Path:
        return self._job.record_path

    def last_attempt(self, stage: str) -> int:
        try:
            return self._job.last_attempt(stage)
        except OSError as error:  # the attempt finds out, and counts as a loss
            logger.warning("%s cannot be read: %s", self._job.root, error)
            return 0

    @contextmanager
    def local(self, load: LoadRecord, *stages: str) -> Iterator[JobDir]:
        root = self._job.root
        if not root.is_dir():
            raise JobNotFoundError(
                f"JOB: {root.name!r} has no folder in {root.parent}; `lorajob status` lists the"
                " jobs, LORAJOB_ARTIFACTS says where their folders are"
            )
        yield self._job

    @contextmanager
    def logs(self, load: LoadRecord) -> Iterator[tuple[JobDir, Callable[[], None]]]:
        with self.local(load) as here:
            yield here, lambda: None

    @contextmanager
    def outline(self) -> Iterator[tuple[JobDir, dict[str, int]]]:
        yield self._job, {}

    def _run(self, record: JobRecord, claim: Claim, errand: Errand, run: RunStage) -> Outcome:
        return run(self._job, errand.watcher)

    def remove(self) -> None:
        """Rename the folder first: `rebuild` would queue a job whose folder is half deleted."""
        if self._job.root.is_dir():
            gone = put_aside(self._job.root)
            with suppress(FileNotFoundError):  # another prune may delete it, too
                shutil.rmtree(gone)
