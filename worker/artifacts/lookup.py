"""Jobs in a store, looked at from a machine that runs none of them."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorajob.corpora import bring_corpus
from lorajob.errors import JobNotFoundError
from lorajob.job.jobdir import JOB_ID, MANIFEST, STAGES, JobDir, write_json
from lorajob.storage.store import Store
from lorajob.storage.urls import is_url
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.artifacts.workplace import in_use, make_room
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings

CORPORA = ".corpora"  # a folder in the store that has no job's name
LOG = re.compile(r"log/\w+/(\d+)\.log")


def job_place(settings: Settings, job_id: str) -> str:
    """The folder or url of a job, as its record names it."""
    if settings.store_url is not None:
        return f"{settings.store_url}/{job_id}"
    return str(settings.jobs.expanduser().resolve() / job_id)


def read_record(settings: Settings, job_id: str) -> JobRecord | None:
    """What a job's job.json says; None without one. Raises RecordError for a damaged one."""
    if settings.store_url is None:
        path = JobDir(settings.jobs / job_id).record_path
        return JobRecord.read(path) if path.is_file() else None
    data = Store(settings.store_url).read(f"{job_id}/job.json")
    return None if data is None else JobRecord.parse(data, f"{settings.store_url}/{job_id}")


def put_spec(place: str, spec: dict[str, Any]) -> None:
    """Make a job's folder, or its place in the store, by its spec.json."""
    if is_url(place):
        text = json.dumps(spec, ensure_ascii=False, indent=2) + "\n"
        Store(place).write("spec.json", text.encode())
    else:
        write_json(JobDir(Path(place)).spec_path, spec)


def put_corpus(settings: Settings, corpus: str, language: str) -> str:
    """Where every machine finds a corpus of this one: its url in the store, to which it is brought;
    its path where jobs lie in a folder, or where it is said to be everywhere.
    """
    if settings.store_url is None or settings.is_everywhere(Path(corpus)):
        return corpus
    return bring_corpus(Path(corpus), language, Store(f"{settings.store_url}/{CORPORA}"))


def has_files(settings: Settings, job_id: str) -> bool:
    """Whether there is a job of that id, whatever Redis knows of it."""
    place = job_place(settings, job_id)
    if is_url(place):
        return Store(place).read("spec.json") is not None
    return JobDir(Path(place)).spec_path.is_file()


def recorded_ids(settings: Settings) -> list[str]:
    """The ids of all jobs that have a job.json, in order."""
    if settings.store_url is not None:
        names = Store(settings.store_url).folders()
    else:
        folders = sorted(settings.jobs.expanduser().glob("*/job.json"))
        names = [path.parent.name for path in folders]
    return [name for name in names if JOB_ID.fullmatch(name)]


@contextmanager
def fetched(record: JobRecord, settings: Settings, *stages: str) -> Iterator[JobDir]:
    """The folder of a job on this machine, with its spec and the files of those `stages` that have
    succeeded; it stays while the block runs, and afterwards as long as there is room. Raises
    JobNotFoundError for a job whose folder is not here and in no store.
    """
    if not is_url(record.folder):
        folder = JobDir(settings.jobs / record.id)
        if not folder.root.is_dir():
            raise JobNotFoundError(f"JOB: {record.id!r} has no folder in {folder.root.parent}")
        yield folder
        return
    stored = JobStore(record.folder, settings.workplace)
    with in_use(stored):
        stored.fetch_spec()
        for stage in stages:
            if record.stages[stage].state == "succeeded":
                stored.fetch_stage(stage, record.stages[stage].attempt)
        yield stored.job
    make_room(stored, settings.jobs_gb * 1e9)


def fetch_logs(record: JobRecord, folder: JobDir, stages: tuple[str, ...] = STAGES) -> None:
    """Put into `folder` what all attempts on all machines have said so far."""
    store = Store(record.folder)
    for stage in stages:
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


def outline(stored: JobStore, folder: JobDir) -> dict[str, int]:
    """Put spec, job.json and the manifests of the committed stages into `folder`, as if the job lay
    there without its large files. Returns the fence that each committed stage points to.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    for name in ("spec.json", "job.json"):
        if (data := stored.store.read(name)) is not None:
            (folder.root / name).write_bytes(data)
    pointers = {}
    for stage in STAGES:
        if fences := stored.attempts(stage):
            pointers[stage] = max(fences)
            manifest = stored.manifest(stage, pointers[stage])
            write_json(folder.stage_dir(stage) / MANIFEST, manifest)
        last = stored.last_attempt(stage)
        (folder.root / "attempts" / f"{stage}-{last}").mkdir(parents=True)
    return pointers


def withdraw(place: str) -> None:
    """Remove a job that was submitted in vain, or is pruned."""
    if is_url(place):
        store = Store(place)
        store.remove("spec.json")  # first: who writes after what follows was listed misses it
        store.remove()
    else:
        shutil.rmtree(Path(place), ignore_errors=True)
