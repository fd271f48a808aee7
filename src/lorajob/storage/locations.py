"""Opens the location of a job's small files: a folder of this machine, or a store behind a URL."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lorajob.job.jobdir import write_json
from lorajob.storage.store import Store
from lorajob.storage.urls import local_path


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, with the methods of Store for small files. They raise OSError."""

    path: Path
    remote = False  # as Store.remote

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
    """The folder or store that a path or URL names. Raises UsageError for a malformed URL."""
    path = local_path(text)
    return Store(text) if path is None else Folder(path)
