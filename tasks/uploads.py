"""Corpora that other machines send: kept beside the jobs, where all workers find them.

JOBS/.uploads/SHA256/NAME is a corpus, SHA256/.part-BYTES the beginning of one that is being sent
and will have so many bytes. .uploads/.locks/SHA256 is locked meanwhile. If the jobs are in a store,
JOBS is the folder of this machine, and `submit` copies the corpus to the store. All together take
at most LORAJOB_UPLOADS_GB.
"""

import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorajob.corpora.archive import ARCHIVES
from lorajob.errors import DiskError, UsageError
from lorajob.job.jobdir import hash_file, sync_path
from lorajob.storage import places
from lorajob.storage.folders import LOCKS, locked
from lorajob.storage.locations import private_folder
from lorajob.worker.artifacts.lookup import find_job, recorded_ids
from lorajob.worker.connect import service_errors
from lorajob.worker.settings import Settings

if TYPE_CHECKING:
    from lorajob.tasks.jobs import Jobs

FOLDER = ".uploads"  # no job has such a name
PART = ".part-"
ROOM = "room"  # a lock; no hash has such a name
SUFFIXES = (*ARCHIVES, ".parquet")  # corpora that are one file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,149}")
SHA256 = re.compile(r"[0-9a-f]{64}")
UNUSED_SECONDS = 86_400.0  # a corpus is sent before a job names it
RESERVED_SECONDS = 3600.0  # so long after its last byte an unfinished upload keeps its whole room

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """A corpus that a machine sends: its name, hash and size."""

    name: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        """Raises UsageError for a name or hash that could be another path."""
        if not NAME.fullmatch(self.name) or not self.name.lower().endswith(SUFFIXES):
            raise UsageError(
                f"name: {self.name[:80]!r} is not allowed; letters, digits and . _ + - of ASCII, "
                f"with the end {', '.join(SUFFIXES)}"
            )
        if not SHA256.fullmatch(self.sha256):
            raise UsageError("sha256: 64 hexadecimal digits, in lower case")
        if self.bytes < 1:
            raise UsageError("bytes: the size of the file, at least 1")


class Uploads:
    """The corpora that other machines sent to a service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.folder = settings.jobs.expanduser().resolve() / FOLDER

    @contextmanager
    def held(self, upload: Upload) -> Iterator[None]:
        """Let no other request write this corpus. Raises BlockingIOError if one does."""
        private_folder(self.folder.parent)
        private_folder(self.folder)
        with locked(self.folder / LOCKS / upload.sha256, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield

    def path(self, upload: Upload) -> Path:
        """Where the whole corpus lies."""
        return self.folder / upload.sha256 / upload.name

    def part(self, upload: Upload) -> Path:
        """Where its beginning lies."""
        return self.folder / upload.sha256 / f"{PART}{upload.bytes}"

    def whole(self, upload: Upload) -> bool:
        """Whether the corpus is here. It then stays for another day."""
        path = self.path(upload)
        if not path.is_file():
            return False
        os.utime(path)
        return True

    def begin(self, upload: Upload) -> int:
        """Make room for a corpus. Returns how many of its bytes are here.

        Raises DiskError if it would take more than LORAJOB_UPLOADS_GB, or if the disk is too full.
        """
        part = self.part(upload)
        # One at a time: two could find the same room.
        with locked(self.folder / LOCKS / ROOM, fcntl.LOCK_EX):
            received = _size(part)
            self._check_room(upload, upload.bytes - received)
            private_folder(part.parent)
            part.touch(mode=0o600)
        return received

    def _check_room(self, upload: Upload, left: int) -> None:
        others = [it for it in self._files() if it != self.part(upload)]
        limit = self._settings.uploads_gb * 1e9
        if left > 0 and sum(map(_room, others)) + upload.bytes > limit:
            raise DiskError(
                f"bytes: {upload.name} has {upload.bytes / 1e9:.2f} GB, and corpora that are sent "
                f"may take {self._settings.uploads_gb:g} GB in all (LORAJOB_UPLOADS_GB). `lorajob "
                "prune --older 30d`, or `lorajob clean uploads --yes` on the service's machine, "
                "deletes those that no job names, a day after they came"
            )
        free = shutil.disk_usage(self.folder).free
        reserved = sum(_room(it) - _size(it) for it in others)
        stays = self._settings.min_free_gb * 1e9
        if left > free - reserved - stays:
            more = f" and {reserved / 1e9:.2f} GB are for other uploads" if reserved > 0 else ""
            raise DiskError(
                f"bytes: {upload.name} has {upload.bytes / 1e9:.2f} GB, and the service's disk has "
                f"{free / 1e9:.2f} GB free, of which {self._settings.min_free_gb:g} GB stay "
                f"(LORAJOB_MIN_FREE_GB){more}; `lorajob prune --older 30d` deletes old jobs"
            )

    def finish(self, upload: Upload) -> Path:
        """Put a corpus whose last byte has come to its place. Raises UsageError for a wrong hash,
        and drops the file.
        """
        part, path = self.part(upload), self.path(upload)
        if hash_file(part) != upload.sha256:
            part.unlink()
            raise UsageError(
                f"sha256: the received file has another hash; {upload.name} changed while it was "
                "sent, so send it again"
            )
        group = places.job_group()
        if group is not None:
            os.chown(part, -1, group)
            part.chmod(0o660)
        sync_path(part)
        part.replace(path)
        return path

    def drop(self, upload: Upload) -> None:
        """Delete the beginning of a corpus."""
        self.part(upload).unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """All corpora here, whole or not."""
        return list(self.folder.glob("[!.]*/*"))

    def unused(self, jobs: "Jobs") -> list[Path]:
        """The folders of corpora that no job names and that were not sent within the last day.

        Raises ServiceError.
        """
        old = _old()
        found = [it for it in self.folder.glob("[!.]*") if _newest(it) < old]
        if not found:
            return []
        with service_errors(jobs.settings):
            records = jobs.records.load_many(jobs.records.ids())
        named = "\n".join(place for it in records for place in (it.corpus, *it.more_corpora))
        unused = [it for it in found if it.name not in named]
        # Jobs whose records are lost or damaged.
        for job_id in recorded_ids(jobs.settings) if unused else ():
            spec = find_job(job_id, jobs.settings).location.read("spec.json") or b""
            unused = [it for it in unused if it.name.encode() not in spec]
        return unused

    def drop_unused(self, jobs: "Jobs") -> list[Path]:
        """Delete the unused corpora; return their folders. Raises ServiceError."""
        return [it for it in self.unused(jobs) if self._removed(it)]

    def keep(self, corpus: str) -> None:
        """Let a corpus stay for another day if it is one of these: a job will name it.

        Waits while `drop_unused` deletes it. Then it is missing.
        """
        path = Path(corpus)
        if self.folder not in path.parents:
            return
        folder = self.folder / path.relative_to(self.folder).parts[0]
        # Of another user, or no corpus at all.
        with suppress(OSError), locked(self._lock(folder), fcntl.LOCK_SH):
            os.utime(folder)

    def _lock(self, folder: Path) -> Path:
        return self.folder / LOCKS / folder.name

    def _removed(self, folder: Path) -> bool:
        try:
            with locked(self._lock(folder), fcntl.LOCK_EX | fcntl.LOCK_NB):
                # A client may have been told meanwhile that it is here.
                if _newest(folder) >= _old():
                    return False
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            return False
        except OSError as error:  # those that are deleted must be named nevertheless
            log.warning("upload: %s cannot be deleted: %s", folder, error.strerror)
            return False
        if folder.exists():
            log.warning("upload: %s cannot be deleted", folder)
            return False
        log.info("upload: %s is deleted; no job needs it", folder)
        return True


def _room(path: Path) -> int:
    """The bytes that a corpus takes, or will take while it is being sent."""
    declared = path.name.removeprefix(PART)
    try:
        found = path.lstat()
    except OSError:
        return 0
    if declared == path.name or found.st_mtime < time.time() - RESERVED_SECONDS:
        return found.st_size
    return max(found.st_size, int(declared))


def _old() -> float:
    return time.time() - UNUSED_SECONDS


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _newest(folder: Path) -> float:
    """When a folder or a file in it was last written; a deleted folder counts as new."""
    try:
        return max(it.stat().st_mtime for it in (folder, *folder.iterdir()))
    except OSError:
        return time.time()
