"""Verifies a job: the files of its stages, its text and glossary, its base model, and the chain
between them.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

from lorajob.errors import LorajobError, RecordError
from lorajob.job.chain import (
    chain_faults,
    checkpoint_faults,
    file_faults,
    finished_stages,
    manifest_files,
)
from lorajob.job.jobdir import GLOSSARY, STAGES, TEXT, JobDir, hash_file
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.storage.locations import Folder
from lorajob.storage.store import DamageError, Store
from lorajob.storage.urls import public
from lorajob.worker.artifacts.job_files import JobFiles
from lorajob.worker.records.record import JobRecord


@dataclass(frozen=True)
class VerifiedStage:
    """The committed files of one stage. `sha256` is over their names, sizes and hashes."""

    files: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class VerifiedBase:
    """The base model. `here`: same, other, absent (not on this machine), unstated (old job)."""

    model: str
    sha256: str | None
    commit: str | None
    here: Literal["same", "other", "absent", "unstated"]


@dataclass(frozen=True)
class Verified:
    """What was found: one line for each fault; no fault means that all is as it was committed."""

    id: str
    stages: dict[str, VerifiedStage]
    base: VerifiedBase | None
    faults: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The object of `lorajob verify --json`, a contract for scripts."""
        return {"ok": not self.faults, **asdict(self)}


def verify(files: JobFiles, record: JobRecord, load: Callable[[], JobRecord]) -> Verified:
    """Read and hash all files of the finished stages of a job.

    Raises JobNotFoundError if it has no files, StoreError if the store is unavailable.
    """
    succeeded = [name for name, it in record.stages.items() if it.state == "succeeded"]
    try:
        with files.local(load, *succeeded) as job:
            found = _verify_folder(job, record)
            more = (*_book_faults(files, job), *_copy_faults(files, record))
            return replace(found, faults=(*found.faults, *more))
    except DamageError as error:  # of the copy that the store sent
        return Verified(record.id, {}, None, (str(error),))


def _verify_folder(job: JobDir, record: JobRecord) -> Verified:
    results = finished_stages(job)
    stages: dict[str, VerifiedStage] = {}
    faults: list[str] = []
    for stage in STAGES:
        if job.stage_dir(stage).is_dir():
            faults += file_faults(job, stage)
        if stage in results:
            sizes = [it["bytes"] for it in manifest_files(job, stage).values()]
            size = sum(it for it in sizes if isinstance(it, int))
            stages[stage] = VerifiedStage(len(sizes), size, job.tree_hash(stage))
    faults += _record_faults(record, job, results)
    faults += chain_faults(job)
    # A training writes, renames and removes its checkpoints.
    if record.stages["train"].state != "running":
        faults += checkpoint_faults(job)
    base = _base(job, results)
    if base is not None and base.here == "other":
        faults.append(f"base model {base.model}: is another one here than the job used")
    return Verified(record.id, stages, base, tuple(faults))


def _record_faults(
    record: JobRecord, job: JobDir, results: dict[str, StageResult]
) -> Iterator[str]:
    """Faults between the record and the files."""
    for stage, said in record.stages.items():
        if said.state != "succeeded":
            continue
        if not job.stage_dir(stage).is_dir():
            yield f"{stage}: has succeeded, but its files are missing"
            continue
        own = results.get(stage)
        if own is not None and said.result is not None and own.as_json() != said.result.as_json():
            yield f"{stage}: its record and {stage}/manifest.json state different results"


def _book_faults(files: JobFiles, job: JobDir) -> Iterator[str]:
    """Faults of the text and the glossary that the job's spec.json names."""
    try:
        spec = JobSpec.load(job.spec_path)
    except (LorajobError, OSError):
        return  # a fault of the settings is named elsewhere
    yield from book_faults(files.location, spec)


def book_faults(location: Folder | Store, spec: JobSpec) -> Iterator[str]:
    """Faults of the copies of text and glossary at the location of a job's files."""
    evaluate = spec.evaluate
    for name, wanted in ((TEXT, evaluate.text_sha256), (GLOSSARY, evaluate.glossary_sha256)):
        if wanted is None:
            continue
        here = hash_at(location, name)
        if here is None:
            yield f"{name}: missing"
        elif here != wanted:
            yield f"{name}: altered: sha256 {here}, {wanted} when the job was submitted"


def hash_at(location: Folder | Store, name: str) -> str | None:
    """The SHA-256 of a file; None if it is missing. Raises StoreError."""
    if isinstance(location, Folder):
        path = location.path / name
        return hash_file(path) if path.is_file() else None
    if location.info(name) is None:
        return None
    return location.hash(name)


def _copy_faults(files: JobFiles, record: JobRecord) -> Iterator[str]:
    """Faults of job.json, which is a copy of the record in Redis.

    While a job goes on, its state and its results change, so they are compared in the same revision
    only.
    """
    try:
        copy = files.read_record()
    except RecordError:
        yield "job.json: damaged"
        return
    if copy is None:
        yield "job.json: missing"
        return
    comparable = record.over or copy.revision == record.revision
    for name in ("id", "language", "base_model", "corpus", *(("state",) if comparable else ())):
        if getattr(copy, name) != getattr(record, name):
            yield f"job.json: its {name} is not that of the record in Redis"
    if not comparable:
        return
    for stage, said in record.stages.items():
        if copy.stages[stage].result != said.result:
            yield f"job.json: its result of {stage} is not that of the record in Redis"


def _base(job: JobDir, results: dict[str, StageResult]) -> VerifiedBase | None:
    """Compare the base model on this machine with the one that the job used."""
    from lorajob.whisper.base_model import local_model
    from lorajob.whisper.identity import identify

    try:
        spec = JobSpec.load(job.spec_path)
    except (LorajobError, OSError):
        return None
    said = next((it for it in results.values() if it.base_sha256 is not None), None)
    name = public(spec.base_model)
    if said is None:
        return VerifiedBase(name, None, None, "unstated")
    commit = said.base_commit or spec.base_revision
    try:
        folder = local_model(spec.base_model, commit, download=False)
    except LorajobError:
        return VerifiedBase(name, said.base_sha256, said.base_commit, "absent")
    same = identify(folder).sha256 == said.base_sha256
    return VerifiedBase(name, said.base_sha256, said.base_commit, "same" if same else "other")
