"""Finds the files of a job by its record or id, and the ids of all jobs by the settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorajob.errors import UsageError
from lorajob.job.jobdir import JOB_ID
from lorajob.storage.bases import BASES, bring_base, is_stored_base, want_again
from lorajob.storage.locations import Folder, open_location
from lorajob.storage.store import Store
from lorajob.storage.urls import public
from lorajob.worker.artifacts.job_files import JobFiles, LocalJob
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.artifacts.stored_job import StoredJob
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings

CORPORA = ".corpora"  # a folder in the store that has no job's name


def open_job(record: JobRecord, settings: Settings) -> JobFiles:
    """The files of a job. Their place follows from the settings, not from the record."""
    return _open(settings.place_of(record.id, record.folder), settings)


def find_job(job_id: str, settings: Settings) -> JobFiles:
    """The files of a job, in the place that the settings name for jobs."""
    return _open(job_place(settings, job_id), settings)


def _open(place: str, settings: Settings) -> JobFiles:
    location = open_location(place)
    if isinstance(location, Store):
        return StoredJob(JobStore(place, settings.workplace), settings.jobs_gb * 1e9)
    return LocalJob(location.path)


def job_place(settings: Settings, job_id: str) -> str:
    """The folder or url of a job, as its record names it."""
    return settings.place_of(job_id)


def jobs_location(settings: Settings) -> Folder | Store:
    """The folder or store that holds the folders of all jobs."""
    return open_location(settings.store_url or str(settings.jobs.expanduser().resolve()))


def put_corpus(settings: Settings, corpus: str, language: str, columns: Mapping[Any, str]) -> str:
    """Where every machine finds a corpus of this machine.

    That is its path if the jobs are in a folder, or if the settings say that every machine has the
    corpus. Otherwise the corpus is uploaded to the store, and its url there is returned.
    """
    if settings.store_url is None or settings.is_everywhere(Path(corpus)):
        return corpus
    # Not imported above: a worker opens jobs and reads no corpus.
    from lorajob.corpora import bring_corpus

    store = Store(f"{settings.store_url}/{CORPORA}")
    return bring_corpus(Path(corpus), language, store, columns)


def put_base(settings: Settings, base_model: str) -> str:
    """How every machine finds a base model: as given, or the url of a copy in the store.

    A folder of this machine is uploaded to the store as `put_corpus` uploads a corpus. Raises
    UsageError for the url of a base model that the store does not have.
    """
    store = bases_store(settings)
    if is_stored_base(base_model):
        if store is None:
            raise UsageError(
                f"base_model: {public(base_model)} is in a store, and LORAJOB_ARTIFACTS names a "
                "folder; give the folder of the model"
            )
        return want_again(base_model, store)
    folder = Path(base_model).expanduser()
    models = ("config.json", "model.bin")
    # A folder without a model may be a share that only the workers have mounted.
    if store is None or not any((folder / name).is_file() for name in models):
        return base_model
    return base_model if settings.is_everywhere(folder) else bring_base(folder, store)


def bases_store(settings: Settings) -> Store | None:
    """The folder of base models in the store; None if the jobs are in a folder."""
    return None if settings.store_url is None else Store(f"{settings.store_url}/{BASES}")


def recorded_ids(settings: Settings, file: str = "job.json") -> list[str]:
    """The ids of all jobs whose folder has that file, sorted; in a store, the ids of all jobs."""
    if settings.store_url is not None:
        names = Store(settings.store_url).folders()
    else:
        found = sorted(settings.jobs.expanduser().resolve().glob(f"*/{file}"))
        names = [path.parent.name for path in found]
    return [name for name in names if JOB_ID.fullmatch(name)]
