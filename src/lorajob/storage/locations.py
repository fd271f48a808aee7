"""Opens the location of a job's small files: a folder of this machine, or a store behind a URL."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lorajob.job.jobdir import sync_path, write_json
from lorajob.storage import places
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
        """Write a small file atomically. Only its user, or the group of LORAJOB_GROUP,
        can read it: a url in it may be signed.
        """
        group = places.job_group()
        private_folder(self.path)
        write_json(self.path / name, value, 0o600 if group is None else 0o660, group)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file atomically. Its readers are those of `write_json`."""
        with self._part_of(name) as part:
            part.write_bytes(data)

    def upload(self, path: Path, name: str) -> None:
        """Copy a file of this machine atomically. Its readers are those of `write_json`."""
        with self._part_of(name) as part:
            shutil.copyfile(path, part)

    @contextmanager
    def _part_of(self, name: str) -> Iterator[Path]:
        """A private file that takes the place of `name` when the block has written it."""
        group = places.job_group()
        target = self.path / name
        private_folder(self.path)
        private_folder(target.parent)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            part.touch(mode=0o600)
            yield part
            if group is not None:
                os.chown(part, -1, group)
                part.chmod(0o660)
            sync_path(part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder as far as possible."""
        shutil.rmtree(self.path, ignore_errors=True)


def private_folder(path: Path) -> None:
    """Make the folder of a job, for its user or for the group of LORAJOB_GROUP. A folder that
    exists stays as it is.
    """
    if path.is_dir():
        return
    group = places.job_group()
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o2770)


def open_location(text: str) -> Folder | Store:
    """The folder or store that a path or URL names. Raises UsageError for a malformed URL."""
    path = local_path(text)
    return Store(text) if path is None else Folder(path)
