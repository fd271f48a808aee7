"""The folders of jobs on this machine: locked between its processes, and removed."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorajob.stores import Check

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
    """At once for every reader, then from the disk."""
    gone = folder.with_name(f"{GONE}{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
