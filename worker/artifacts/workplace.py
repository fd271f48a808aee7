"""The copies of jobs on this machine whose files are in a store: keeps and removes them.

A process that works in a folder holds a shared lock on it. A process needs the exclusive lock to
remove the folder.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lorajob.job.jobdir import JOB_ID
from lorajob.storage.folders import job_lock, keep_newest, locked, remove_folder, sweep
from lorajob.storage.locations import private_folder
from lorajob.storage.store import Store
from lorajob.worker.artifacts.job_store import JobStore

logger = logging.getLogger(__name__)


@contextmanager
def hold_copy(stored: JobStore) -> Iterator[None]:
    """Keep the job's folder on this machine while the block runs."""
    with locked(job_lock(stored.job.root), fcntl.LOCK_SH):
        private_folder(stored.job.root)
        os.utime(stored.job.root)
        yield
        with suppress(FileNotFoundError):  # a removed folder does not undo the block's work
            os.utime(stored.job.root)


def trim_copies(stored: JobStore, limit_bytes: float) -> None:
    """Remove the least recently used folders until the rest take at most `limit_bytes`.

    This job's folder may be among them. Folders that are in use, or hold files that the store
    lacks, stay.
    """
    workplace = stored.job.root.parent
    artifacts = Store(stored.store.url.rpartition("/")[0])
    sweep(workplace)
    folders = [path for path in workplace.glob("*") if JOB_ID.fullmatch(path.name)]
    keep_newest(folders, limit_bytes, lambda folder: _removed(folder, artifacts))


def drop_copy(folder: Path) -> None:
    """Remove the folder of a job that was pruned, unless it is in use. Raises OSError."""
    if not folder.is_dir():
        return
    try:
        with locked(job_lock(folder), fcntl.LOCK_EX | fcntl.LOCK_NB):
            remove_folder(folder)
    except BlockingIOError:
        logger.warning("%s is in use; it stays until its stage ends or space is needed", folder)


def _removed(folder: Path, artifacts: Store) -> bool:
    try:
        with locked(job_lock(folder), fcntl.LOCK_EX | fcntl.LOCK_NB):
            if not JobStore(f"{artifacts.url}/{folder.name}", folder.parent).safe:
                return False
            remove_folder(folder)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning("%s cannot be removed: %s", folder, error)
        return False
    logger.info("%s is removed from this machine; the job is in %s", folder, artifacts.url)
    return True
