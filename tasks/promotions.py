"""The promoted models: which job's model `lorajob serve` uses for each language.

ARTIFACTS/.promoted/LANG.json, in the folder or store of the jobs, is a stack:

    {"promoted": [{"job": "hi-1a2b3c4d", "at": 1700000000.0, "forced": false}, ...]}

The last one is used. The file is replaced as a whole, so a reader sees the old or the new one.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lorajob.errors import JobNotFoundError, StageError, UsageError
from lorajob.job.chain import chain_faults, finished_stages
from lorajob.job.jobdir import JOB_ID, JobDir
from lorajob.job.results import unchecked, verdict_of
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.storage.folders import LOCKS, locked
from lorajob.storage.locations import Folder
from lorajob.worker.artifacts.lookup import find_job, jobs_location
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings

FOLDER = ".promoted"  # no job has such a name
MOST_KEPT = 50  # promotions of a language


class Promotion(BaseModel):
    """One model that was promoted."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str
    at: float
    """Seconds since the epoch."""
    forced: bool = False
    """Promoted although its gate failed."""
    unchecked: tuple[str, ...] = ()
    """The guards of its gate that were not checked."""


class _Stack(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    promoted: tuple[Promotion, ...] = ()


@dataclass(frozen=True)
class DeliveredModel:
    """The model of a finished job, in a folder of this machine."""

    job: str
    language: str  # code of lorajob
    folder: Path
    spec: Path
    sha256: dict[str, str]  # name -> hash of the files in `folder`, as convert committed them
    made: float  # seconds since the epoch


class Promotions:
    """The promoted models of the jobs that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._location = jobs_location(settings)

    def languages(self) -> list[str]:
        """The languages that have a promoted model, sorted. Raises StoreError."""
        if isinstance(self._location, Folder):
            names = [it.name for it in (self._location.path / FOLDER).glob("*.json")]
        else:
            names = [it.rpartition("/")[2] for it in self._location.names(FOLDER)]
        codes = [it.removesuffix(".json") for it in names if it.endswith(".json") and it[0] != "."]
        return sorted(code for code in codes if self.current(code) is not None)

    def current(self, language: str) -> Promotion | None:
        """The promoted model of a language; None without one."""
        stack = self._read(find_language(language).code)
        return stack[-1] if stack else None

    def latest(self, language: str) -> tuple[Promotion, ...]:
        """The promotions of a language, the present one last; empty without one."""
        return self._read(find_language(language).code)

    def current_jobs(self) -> dict[str, str]:
        """Job -> language of the promoted models."""
        found = {code: self.current(code) for code in self.languages()}
        return {it.job: code for code, it in found.items() if it is not None}

    def kept(self) -> set[str]:
        """The ids of the promoted jobs, and of those that a rollback would restore."""
        return {it.job for code in self.languages() for it in self._read(code)[-2:]}

    def promote(self, job_id: str, force: bool = False) -> tuple[str, Promotion]:
        """Promote the model of a job for its language. Returns the language and the promotion.

        Raises UsageError if its gate failed, unless `force` is given. Raises JobNotFoundError, and
        StageError for a job without a model or with files that do not belong together.
        """
        with open_delivered(job_id, self._settings) as model, self._locked(model.language):
            job = JobDir(model.spec.parent)
            reasons = gate_reasons(job)
            if reasons and not force:
                raise UsageError(
                    f"{job_id}: its gate failed: {'; '.join(reasons)}; `lorajob promote {job_id} "
                    "--force` promotes it nevertheless"
                )
            stack = self._read(model.language)
            checked = verdict_of(finished_stages(job))
            left = () if checked is None else tuple(unchecked(checked.guards))
            promotion = Promotion(job=job_id, at=time.time(), forced=bool(reasons), unchecked=left)
            if stack and stack[-1].job == job_id:
                return model.language, stack[-1]
            self._write(model.language, (*stack, promotion))
            return model.language, promotion

    def rollback(self, language: str) -> tuple[str, Promotion, Promotion]:
        """Go back to the previous model. Returns the language, the present model, the previous one.

        Raises UsageError if there is no model before, or if its job is deleted.
        """
        code = find_language(language).code
        with self._locked(code):
            stack = self._read(code)
            if not stack:
                raise UsageError(
                    f"{code}: no model is promoted; `lorajob promote JOB` promotes one"
                )
            if len(stack) == 1:
                raise UsageError(
                    f"{code}: {stack[-1].job} is the only model that was promoted; `lorajob "
                    "promote JOB` promotes another one"
                )
            with open_delivered(stack[-2].job, self._settings):
                self._write(code, stack[:-1])
            return code, stack[-1], stack[-2]

    @contextmanager
    def _locked(self, language: str) -> Iterator[None]:
        """Allow one change of a language's promotions at a time on this machine."""
        with locked(self._settings.workplace / LOCKS / f"promote-{language}", fcntl.LOCK_EX):
            yield

    def _read(self, language: str) -> tuple[Promotion, ...]:
        data = self._location.read(f"{FOLDER}/{language}.json")
        if data is None:
            return ()
        try:
            return _Stack.model_validate_json(data).promoted
        except ValidationError:
            raise StageError(
                f"{FOLDER}/{language}.json in LORAJOB_ARTIFACTS is damaged; remove it and promote "
                "again"
            ) from None

    def _write(self, language: str, stack: tuple[Promotion, ...]) -> None:
        values = _Stack(promoted=stack[-MOST_KEPT:]).model_dump(mode="json")
        if isinstance(self._location, Folder):
            Folder(self._location.path / FOLDER).write_json(f"{language}.json", values)
        else:
            self._location.write_json(f"{FOLDER}/{language}.json", values)


@contextmanager
def open_delivered(job_id: str, settings: Settings) -> Iterator[DeliveredModel]:
    """The model of a finished job. A copy from a store stays on this machine while the block runs.

    Redis is not needed. Raises UsageError for a malformed id, JobNotFoundError, and StageError for
    a job without a model, or with files that do not belong together.
    """
    if not JOB_ID.fullmatch(job_id):
        raise UsageError(f"JOB: {job_id!r} is not a job's id; ids look like hi-1a2b3c4d")
    files = find_job(job_id, settings)

    def load() -> JobRecord:
        record = files.read_record()
        if record is None:
            raise JobNotFoundError(f"JOB: {job_id!r} has no files in LORAJOB_ARTIFACTS")
        return record

    with files.local(load, "convert") as job:
        result = job.result("convert")
        if result is None or result.model is None:
            raise StageError(
                f"{job_id}: has no model yet; `lorajob status {job_id}` shows its progress"
            )
        if fault := next(chain_faults(job), None):
            raise StageError(f"{job_id}: {fault}; `lorajob verify {job_id}` names all faults")
        folder = job.root / result.model
        yield DeliveredModel(
            job=job_id,
            language=find_language(JobSpec.load(job.spec_path).language).code,
            folder=folder,
            spec=job.spec_path,
            sha256=_hashes(job, folder),
            made=(job.stage_dir("convert") / "manifest.json").stat().st_mtime,
        )


def _hashes(job: JobDir, folder: Path) -> dict[str, str]:
    """Name -> hash of the model's files, as the manifest of convert states them."""
    files = json.loads((job.stage_dir("convert") / "manifest.json").read_bytes())["files"]
    below = folder.relative_to(job.stage_dir("convert")).as_posix()
    prefix = "" if below == "." else f"{below}/"
    return {
        name.removeprefix(prefix): str(entry["sha256"])
        for name, entry in files.items()
        if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
    }


def gate_reasons(job: JobDir) -> list[str]:
    """Why the gate of a job failed; empty if it passed, or if an older version made the job.

    The last stage that has a gate decides, because it knows all guards.
    """
    verdicts = [it for it in finished_stages(job).values() if it.gate is not None]
    if not verdicts or verdicts[-1].gate != "failed":
        return []
    return list(verdicts[-1].gate_reasons) or ["no reason is stated"]
