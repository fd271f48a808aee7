"""Folders on this machine: locked between its processes, removed, and kept within a limit."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lorajob.storage.store import Check

LOCKS = ".locks"  # beside the jobs' folders, which they outlast
GONE = ".gone-"  # what is being removed is called so first
TICK_SECONDS = 0.2


@contextmanager
def locked(lock: Path, how: int, check: Check | None = None) -> Iterator[None]:
    """Hold the lock that a file stands for, shared or exclusive as flock(2) has it. The file is
    made if it is missing, and stays. `check` is called while the lock is waited for. Raises
    BlockingIOError if `how` says not to wait.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, how | (fcntl.LOCK_NB if check else 0))
                break
            except BlockingIOError:
                if check is None:
                    raise
                check()
                time.sleep(TICK_SECONDS)
        yield


def job_lock(job: Path, kind: str = "") -> Path:
    """The file for a job's lock of this kind: `.fetch`, or none for the use of its folder."""
    return job.parent / LOCKS / f"{job.name}{kind}"


def remove_folder(folder: Path) -> None:
    """At once for every reader, then from the disk. Raises OSError for one that stays as it is."""
    shutil.rmtree(put_aside(folder), ignore_errors=True)


def put_aside(folder: Path, mark: str = "") -> Path:
    """Rename a folder that is to be removed, and return where it is now. Several processes that
    remove folders of one name at once each need a `mark` of their own. Raises OSError.
    """
    gone = folder.with_name(f"{GONE}{folder.name}{mark}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    return gone


def sweep(parent: Path) -> list[Path]:
    """Remove what killed processes have put aside there; returns what stays."""
    for left in parent.glob(f"{GONE}*"):
        shutil.rmtree(left, ignore_errors=True)
    return list(parent.glob(f"{GONE}*"))


def keep_newest(
    folders: Iterable[Path], limit_bytes: float, remove: Callable[[Path], bool]
) -> None:
    """Remove the folders longest unused until the files in all take at most `limit_bytes`. `remove`
    returns False for a folder that must stay.
    """
    total = 0
    for folder in sorted(folders, key=used_at, reverse=True):
        size = _bytes_below(folder)
        if total + size <= limit_bytes or not remove(folder):
            total += size


def used_at(path: Path) -> float:
    """When a folder was last used, by its time of change; 0 for one that was removed meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _bytes_below(folder: Path) -> int:
    """Of a folder in which others may write and remove."""
    total = 0
    for parent, _, files in os.walk(folder):  # which ignores a folder that was removed meanwhile
        for name in files:
            try:
                total += Path(parent, name).lstat().st_size
            except OSError:
                continue
    return total
