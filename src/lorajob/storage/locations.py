"""A job's small files, in a folder of this machine or behind a URL: the module that tells which."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lorajob.job.jobdir import write_json
from lorajob.storage.store import Store
from lorajob.storage.urls import local_path


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, with those methods of Store that small files need. They raise
    OSError.
    """

    path: Path
    remote = False  # for a type checker: as Store.remote

    def read(self, name: str) -> bytes | None:
        """A small file; None if it is missing."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: object) -> None:
        """Write a small file, whole or not at all."""
        write_json(self.path / name, value)

    def remove(self) -> None:
        """Remove the folder as far as possible."""
        shutil.rmtree(self.path, ignore_errors=True)


def open_location(text: str) -> Folder | Store:
    """The place that a path or a URL names. Raises UsageError for a malformed URL."""
    path = local_path(text)
    return Store(text) if path is None else Folder(path)
