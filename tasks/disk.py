"""Lists lorajob's folders on this machine, and removes what it can make or fetch again."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorajob.corpora.remote import make_room
from lorajob.errors import ServiceError, UsageError
from lorajob.storage import cache, places
from lorajob.storage.bases import PREFIX
from lorajob.storage.folders import remove_folder
from lorajob.storage.urls import local_path
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.uploads import FOLDER as UPLOADS
from lorajob.tasks.uploads import Uploads
from lorajob.worker.artifacts.lookup import job_place
from lorajob.worker.connect import service_errors
from lorajob.worker.settings import Settings

Kind = Literal["cache", "corpora", "models", "uploads"]


@dataclass(frozen=True)
class DiskItem:
    """A folder on this machine, its purpose and what removes it. Sizes are in bytes.

    `alone` is what its removal frees: a file that a job links to as well is not counted.
    """

    what: str
    path: Path
    bytes: int
    alone: int
    removed_by: str


def disk_items(settings: Settings) -> list[DiskItem]:
    """All that lorajob keeps on this machine. A folder that is missing has no item."""
    hub = os.environ.get("HF_HUB_CACHE")
    hub_home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    here = local_path(job_place(settings, "job"))
    jobs = settings.workplace if here is None else here.parent
    kept = "workers, over LORAJOB_JOBS_GB" if here is None else "rm, prune"
    sent = Uploads(settings).folder
    found = [
        ("jobs", jobs, kept),
        ("uploads", sent, "clean uploads, prune"),
        ("cache", places.cache(), "clean cache"),
        ("corpora", places.corpora(), "clean corpora"),
        ("models", places.models(), "clean models"),
        ("logs", settings.home / "log", "by hand, after down"),
        ("Hub's models", Path(hub) if hub else hub_home / "hub", "`hf cache`; other tools use it"),
    ]
    return [_item(what, path, by) for what, path, by in found if path.is_dir()]


def _item(what: str, path: Path, removed_by: str) -> DiskItem:
    sizes = list(_sizes(path, without=UPLOADS))
    alone = sum(size for size, links in sizes if links == 1)
    return DiskItem(what, path, sum(size for size, _ in sizes), alone, removed_by)


def _sizes(folder: Path, without: str = "") -> Iterator[tuple[int, int]]:
    """Size and number of links of each file. Files may come and go meanwhile.

    A folder `without` directly below is left out.
    """
    for parent, folders, files in os.walk(folder):
        if without in folders and Path(parent) == folder:
            folders.remove(without)
        for name in files:
            try:
                found = Path(parent, name).lstat()
            except OSError:
                continue
            yield found.st_size, found.st_nlink


def free_bytes(path: Path) -> int:
    """Free space on the disk of a folder that may be missing."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def free_disk(jobs: Jobs, kinds: Sequence[Kind]) -> Iterator[tuple[Kind, int]]:
    """Remove caches, fetched corpora, converted base models and unused corpora that were sent.

    Yields the freed bytes of each when it is removed. A corpus that a stage reads stays. Raises
    UsageError at once for models while jobs run: a stage may load one. Raises ServiceError for
    uploads if Redis is unavailable.
    """
    if "models" in kinds and (running := _running(jobs)):
        raise UsageError(
            f"models: {running} runs and may load one; wait for it, or name only cache and corpora"
        )
    return _freed(jobs, kinds)


def _freed(jobs: Jobs, kinds: Sequence[Kind]) -> Iterator[tuple[Kind, int]]:
    for kind in kinds:
        before = _size(kind, jobs.settings)
        match kind:
            case "cache":
                cache.trim(0)
            case "corpora":
                make_room(0)
            case "models":
                # A download of a base model that was cut off begins with a dot.
                found = [*places.models().glob("[!.]*"), *places.models().glob(f".{PREFIX}*")]
                for folder in found:
                    if folder.is_dir():
                        remove_folder(folder)
            case "uploads":
                Uploads(jobs.settings).drop_unused(jobs)
        yield kind, before - _size(kind, jobs.settings)


def unused_bytes(jobs: Jobs) -> int:
    """The bytes of the corpora that `free_disk` of uploads would remove. Raises ServiceError."""
    return sum(size for it in Uploads(jobs.settings).unused(jobs) for size, _ in _sizes(it))


def _size(kind: Kind, settings: Settings) -> int:
    folders = {
        "cache": places.cache(),
        "corpora": places.corpora(),
        "models": places.models(),
        "uploads": Uploads(settings).folder,
    }
    return sum(size for size, links in _sizes(folders[kind]) if links == 1)


def _running(jobs: Jobs) -> str | None:
    """A job that runs; None if no job does, or if there is no service."""
    try:
        with service_errors(jobs.settings):
            records = jobs.records.newest(200)
    except ServiceError:
        return None
    return next((record.id for record in records if record.standing.runs), None)
