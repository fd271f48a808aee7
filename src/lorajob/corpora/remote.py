"""Corpora behind a url. Each machine downloads them once, into LORAJOB_HOME/corpora.

    CORPORA/KEY/NAME          the archive; KEY is a hash of the url
    CORPORA/KEY/entry.json    its url, its size, and its version according to the server
    CORPORA/KEY.lock          lock held by the process that downloads it
    CORPORA/KEY.use           lock held by the processes that read it

If the archives take more than `LORAJOB_CORPORA_GB` (200), those unused longest are removed.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lorajob.corpora.archive import ARCHIVES
from lorajob.errors import UsageError
from lorajob.job.jobdir import write_json
from lorajob.storage import places
from lorajob.storage.folders import keep_newest, locked
from lorajob.storage.store import (
    CHUNK_BYTES,
    Check,
    DamageError,
    Store,
    StoreError,
    store_errors,
    unhurried,
)
from lorajob.storage.urls import local_path, public

ENTRY = "entry.json"
VERSION_FIELDS = (
    "ETag",
    "etag",
    "md5Hash",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "mtime",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remote:
    """A corpus's url and where its copy is on this machine."""

    url: str

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rpartition("/")[2]

    @property
    def folder(self) -> Path:
        return places.corpora() / hashlib.sha256(self.url.encode()).hexdigest()[:20]

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def lock(self, kind: str) -> Path:
        """The file of a lock. It stays when the folder is removed."""
        return self.folder.with_suffix(f".{kind}")

    def entry(self) -> dict[str, Any] | None:
        """The entry of a complete copy on this machine; None without one."""
        try:
            entry: dict[str, Any] = json.loads((self.folder / ENTRY).read_bytes())
            whole = self.path.stat().st_size == entry["bytes"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return entry if whole else None


def check_remote(url: str) -> None:
    """Check that there is an archive at the url. Its language is only checked when it is read.

    Raises UsageError if there is no archive, StoreError if the server is unavailable.
    """
    # Comes first, because it refuses malformed urls.
    store = Store(url)
    if not Remote(url).name.lower().endswith(ARCHIVES):
        raise UsageError(
            f"corpus: {public(url)} is not an archive; a url must end in {', '.join(ARCHIVES)}"
            " (a Common Voice release)"
        )
    if store.info() is None:
        raise UsageError(f"corpus: {public(url)} does not exist")


def local_copy(corpus: str) -> Path:
    """The path of a corpus on this machine. A corpus behind a url is fetched if it is missing.

    Raises as `fetch` does.
    """
    if (path := local_path(corpus)) is not None:
        return path
    remote = Remote(corpus)
    return remote.path if remote.entry() is not None else fetch(corpus)


def fetch(url: str, check: Check = unhurried) -> Path:
    """Download the server's current version of a corpus, and return its path on this machine.

    Other processes that want it wait. An interrupted download is resumed. An older copy is replaced
    when no process reads it any more. Raises UsageError if there is no such corpus, StoreError if
    the server is unavailable.
    """
    check_remote(url)
    remote, store = Remote(url), Store(url)
    with locked(remote.lock("lock"), fcntl.LOCK_EX, check):
        wanted = _described(store)
        if remote.entry() == wanted:
            os.utime(remote.folder)
            return remote.path
        make_room(places.corpora_bytes() - (wanted["bytes"] or 0))
        remote.folder.mkdir(parents=True, exist_ok=True)
        part = remote.folder / f".part-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]}"
        for other in remote.folder.glob(".part-*"):
            # Parts of a release that was replaced before its download was complete.
            if other != part:
                other.unlink()
        _continue(store, part, check)
        if _described(store) != wanted:
            part.unlink()
            raise StoreError(f"{public(url)} was replaced while it was fetched")
        size = part.stat().st_size
        if wanted["bytes"] is not None and size != wanted["bytes"]:
            part.unlink()
            raise DamageError(f"{public(url)}: {size} bytes came instead of {wanted['bytes']}")
        # Wait for readers, because a reader opens the file more than once.
        with locked(remote.lock("use"), fcntl.LOCK_EX, check):
            part.replace(remote.path)
            write_json(remote.folder / ENTRY, wanted | {"bytes": size})
        log.info("corpus: %s is here, %d MB", public(url), size // 1_000_000)
        return remote.path


@contextmanager
def in_use(url: str) -> Iterator[bool]:
    """Keep the copy on this machine unchanged while the block runs. Yields whether there is one."""
    with locked(Remote(url).lock("use"), fcntl.LOCK_SH):
        yield Remote(url).entry() is not None


def make_room(limit_bytes: float) -> None:
    """Remove the archives unused longest until all take at most `limit_bytes`. Skips used ones."""
    folders = [path for path in places.corpora().glob("*") if path.is_dir()]
    keep_newest(folders, limit_bytes, _removed)


def _removed(folder: Path) -> bool:
    how = fcntl.LOCK_EX | fcntl.LOCK_NB
    # Both locks: the archive may be downloaded or read by another process.
    try:
        with locked(folder.with_suffix(".lock"), how), locked(folder.with_suffix(".use"), how):
            log.info("corpus: %s is removed to free disk space", folder)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    return True


def _continue(store: Store, part: Path, check: Check) -> None:
    try:
        _append(store, part, CHUNK_BYTES, check)
    # The web server can only send the file from its beginning.
    except ValueError:
        part.unlink()
        _append(store, part, 0, check)


def _append(store: Store, part: Path, block_bytes: int, check: Check) -> None:
    with part.open("ab") as target:
        with store_errors(store.url):
            source = store.fs.open(store.key(""), "rb", block_size=block_bytes)
        with source:
            if target.tell():
                with store_errors(store.url):
                    source.seek(target.tell())
            while True:
                check()
                with store_errors(store.url):
                    chunk = source.read(CHUNK_BYTES)
                if not chunk:
                    break
                target.write(chunk)
        target.flush()
        os.fsync(target.fileno())


def _described(store: Store) -> dict[str, Any]:
    """An entry for the server's current version."""
    info = store.info() or {}
    version = next((info[name] for name in VERSION_FIELDS if info.get(name)), "")
    return {"url": public(store.url), "bytes": info.get("size"), "version": str(version).strip('"')}
