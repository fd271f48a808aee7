"""What the screens read from the files of a job: curves, findings, clips, logs, the model.

The files of a job in a store are copied to this machine when they are first asked for.
"""

import re
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from lorajob.errors import JobNotFoundError, StageError
from lorajob.job.history import HISTORY, PART
from lorajob.job.jobdir import REPORT_FILES, STAGES, JobDir
from lorajob.reporting.curves import Curves, history_path, read_curves
from lorajob.reporting.findings import (
    CorpusCounts,
    Findings,
    changed_settings,
    read_corpus,
    read_findings,
)
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store, StoreError
from lorajob.storage.urls import public_spec
from lorajob.tasks.jobs import Jobs
from lorajob.worker.artifacts.job_files import JobFiles
from lorajob.worker.artifacts.lookup import open_job
from lorajob.worker.records.record import JobRecord

KEPT_FINDINGS = 8  # jobs whose findings stay in memory
TAIL_BYTES, TAIL_LINES = 64 << 10, 400
DATA = ("preprocess/report.json",)


def files_of(jobs: Jobs, record: JobRecord) -> JobFiles:
    """The files of a job."""
    return open_job(record, jobs.settings)


def findings_of(jobs: Jobs, record: JobRecord) -> Findings | None:
    """The findings of a job; None until its evaluation has finished. Raises StageError."""
    if record.stages["evaluate"].state != "succeeded":
        return None
    with files_of(jobs, record).local(lambda: record, *REPORT_FILES) as folder:
        # A job that is converted later has more to show.
        finished = tuple(stage for stage in STAGES if folder.stage_dir(stage).is_dir())
        return _findings(folder.root, folder.tree_hash("evaluate"), finished)


@lru_cache(KEPT_FINDINGS)
def _findings(root: Path, tree: str, finished: tuple[str, ...]) -> Findings:
    return read_findings(JobDir(root))


def curves_of(jobs: Jobs, record: JobRecord) -> Curves:
    """The curves of the training, as far as it is. Empty if nothing is known yet."""
    running = record.stages["train"].state != "succeeded"
    files = files_of(jobs, record)
    try:
        if running and not isinstance(files.location, Folder):
            return _stored_curves(files.location)
        with files.local(lambda: record, f"train/{HISTORY}") as folder:
            path = history_path(folder)
            return Curves([], []) if path is None else read_curves(path, running)
    except (ValidationError, OSError, JobNotFoundError):
        # The files of an attempt may vanish while they are read.
        return Curves([], [])


def _stored_curves(store: Store) -> Curves:
    """The curves in the newest checkpoint of a store."""
    found = [it for it in store.names("checkpoints") if it.endswith(f"/{HISTORY}")]
    if not found:
        return Curves([], [])
    newest = max(found, key=_numbers).removesuffix(HISTORY)
    with TemporaryDirectory() as folder:
        for name in store.names(newest.rstrip("/")):
            file = name.rpartition("/")[2]
            if file == HISTORY or PART.fullmatch(file):
                Path(folder, file).write_bytes(store.read(name) or b"")
        return read_curves(Path(folder, HISTORY), running=True)


def _numbers(name: str) -> list[int]:
    """Attempt and step of checkpoints/ATTEMPT-STEP/history.jsonl."""
    return [int(it) for it in re.findall(r"\d+", name)]


def data_of(jobs: Jobs, record: JobRecord) -> CorpusCounts | None:
    """What preprocessing kept and dropped; None until it has finished. Raises StageError."""
    if record.stages["preprocess"].state != "succeeded":
        return None
    with files_of(jobs, record).local(lambda: record, *DATA) as folder:
        return read_corpus(folder.stage_dir("preprocess") / "report.json")


def settings_of(jobs: Jobs, record: JobRecord) -> list[tuple[str, object, object]]:
    """(name, value, default) of the settings that differ from the defaults."""
    with files_of(jobs, record).local(lambda: record) as folder:
        return changed_settings(public_spec(JobSpec.load(folder.spec_path)))


def clip_sound(jobs: Jobs, record: JobRecord, index: int) -> bytes:
    """A test clip as MP3. Raises StageError if there is no such clip."""
    from lorajob.reporting.sound import as_mp3

    with files_of(jobs, record).local(lambda: record, "preprocess/test") as folder:
        place = folder.stage_dir("preprocess") / "test"
        if not place.is_dir():
            raise StageError(f"{record.id}: its test clips are not stored")
        store = ClipStore(place)
        if not 0 <= index < len(store):
            raise StageError(f"{record.id}: has no test clip {index}")
        return as_mp3(store.audio(index))


def log_tail(jobs: Jobs, record: JobRecord, stage: str) -> str:
    """The last lines of a stage's log; empty if it has none."""
    lines = _log(jobs, record, stage, TAIL_BYTES).splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def whole_log(jobs: Jobs, record: JobRecord, stage: str) -> str:
    """The whole log of a stage."""
    return _log(jobs, record, stage, None)


def _log(jobs: Jobs, record: JobRecord, stage: str, most: int | None) -> str:
    try:
        with files_of(jobs, record).logs(lambda: record) as (folder, refresh):
            refresh()
            path = folder.log_path(stage)
            if not path.is_file():
                return ""
            with path.open("rb") as file:
                if most is not None and (size := path.stat().st_size) > most:
                    file.seek(size - most)
                    file.readline()
                return file.read().decode("utf-8", errors="replace")
    except (JobNotFoundError, StoreError):
        return ""
