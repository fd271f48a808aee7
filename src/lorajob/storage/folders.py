"""The folders of jobs on this machine: locked between its processes, and removed."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorajob.storage.store import Check

LOCKS = ".locks"  # beside the jobs' folders, which they outlast
GONE = ".gone-"  # what is being removed is called so first
TICK_SECONDS = 0.2


@contextmanager
def locked(job: Path, how: int, kind: str = "", check: Check | None = None) -> Iterator[None]:
    """Hold a job's lock of this `kind`, shared or exclusive as flock(2) has it. `check` is called
    while it is waited for. Raises BlockingIOError where it is not to be waited for.
    """
    locks = job.parent / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / f"{job.name}{kind}").open("w") as file:
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


def remove_folder(folder: Path) -> None:
    """At once for every reader, then from the disk. Raises OSError for one that stays as it is."""
    shutil.rmtree(put_aside(folder), ignore_errors=True)


def put_aside(folder: Path) -> Path:
    """Rename a folder that is to be removed, and return where it is now. Raises OSError."""
    gone = folder.with_name(f"{GONE}{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    return gone


def sweep(parent: Path) -> list[Path]:
    """Remove what is put aside there, since whoever removed it was killed; returns what stays."""
    for left in parent.glob(f"{GONE}*"):
        shutil.rmtree(left, ignore_errors=True)
    return list(parent.glob(f"{GONE}*"))
