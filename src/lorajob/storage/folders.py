"""Locks folders between processes of this machine, removes them, and limits their total size."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lorajob.storage.store import Check

LOCKS = ".locks"  # folder beside the jobs' folders; locks stay when a job is removed
GONE = ".gone-"  # prefix of a folder that is being removed
TICK_SECONDS = 0.2


@contextmanager
def locked(lock: Path, how: int, check: Check | None = None) -> Iterator[None]:
    """Hold a lock on a file while the block runs. `how` is the operation of flock(2).

    The file is created if it is missing, and it stays. While waiting for the lock, `check` is
    called. Raises BlockingIOError if `how` says not to wait and the lock is held.
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
    """The file of a job's lock. `kind` is `.fetch`, or empty for the use of the job's folder."""
    return job.parent / LOCKS / f"{job.name}{kind}"


def remove_folder(folder: Path) -> None:
    """Remove a folder. For readers it disappears at once. Raises OSError if it cannot be moved."""
    shutil.rmtree(put_aside(folder), ignore_errors=True)


def put_aside(folder: Path, mark: str = "") -> Path:
    """Rename a folder that is to be removed, and return its new path. Raises OSError.

    If several processes may remove folders of the same name at once, each needs its own `mark`.
    """
    gone = folder.with_name(f"{GONE}{folder.name}{mark}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    return gone


def sweep(parent: Path) -> list[Path]:
    """Remove the folders that killed processes have put aside. Returns those that remain."""
    for left in parent.glob(f"{GONE}*"):
        shutil.rmtree(left, ignore_errors=True)
    return list(parent.glob(f"{GONE}*"))


def keep_newest(
    folders: Iterable[Path], limit_bytes: float, remove: Callable[[Path], bool]
) -> None:
    """Remove the folders unused longest until the rest take at most `limit_bytes`.

    `remove` removes a folder, or returns False if the folder must stay.
    """
    total = 0
    for folder in sorted(folders, key=used_at, reverse=True):
        size = _bytes_below(folder)
        if total + size <= limit_bytes or not remove(folder):
            total += size


def used_at(path: Path) -> float:
    """When a folder was last used: its modification time; 0 if it has been removed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder. Other processes may write and remove files meanwhile."""
    total = 0
    # os.walk ignores a folder that has been removed.
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += Path(parent, name).lstat().st_size
            except OSError:
                continue
    return total
