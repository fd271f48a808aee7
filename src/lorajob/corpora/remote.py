"""Corpora behind a url. Each machine downloads them once, into LORAJOB_HOME/corpora.

    CORPORA/KEY/NAME          the archive; KEY is a hash of the url
    CORPORA/KEY/data/         the files of a data set of a catalogue, such as the Hub
    CORPORA/KEY/entry.json    its url, its size, and its version according to the server
    CORPORA/KEY.lock          lock held by the process that downloads it
    CORPORA/KEY.use           lock held by the processes that read it

If the archives take more than `LORAJOB_CORPORA_GB` (200), those unused longest are removed.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

from lorajob.corpora import hub, mdc
from lorajob.corpora.archive import ARCHIVES
from lorajob.corpora.place import is_archive
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
    read_chunks,
    store_errors,
    unhurried,
)
from lorajob.storage.urls import is_named, local_path, public

FILES = (*ARCHIVES, ".parquet")
ENTRY, DATA = "entry.json", "data"
VERSION_FIELDS = (
    "ETag",
    "etag",
    "md5Hash",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "mtime",
)

PAGE_FROM = "a proxy, or a page for a login, may answer in place of the server"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remote:
    """A corpus's url and where its copy is on this machine."""

    url: str
    kind: ClassVar[str] = "corpus"
    # How HTML and XML begin, and no archive.
    page: ClassVar[tuple[bytes, ...]] = (b"<",)

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rpartition("/")[2]

    @property
    def folder(self) -> Path:
        return places.corpora() / hashlib.sha256(self.url.encode()).hexdigest()[:20]

    @property
    def path(self) -> Path:
        if catalogue(self.url) is None:
            return self.folder / self.name
        data = self.folder / DATA
        names = list(data.iterdir()) if data.is_dir() else []
        return names[0] if len(names) == 1 and is_archive(names[0]) else data

    def lock(self, kind: str) -> Path:
        """The file of a lock. It stays when the folder is removed."""
        return self.folder.with_suffix(f".{kind}")

    def entry(self) -> dict[str, Any] | None:
        """The entry of a complete copy on this machine; None without one."""
        try:
            entry: dict[str, Any] = json.loads((self.folder / ENTRY).read_bytes())
            whole = _bytes_of(self.path) == entry["bytes"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return entry if whole else None


class Catalogue(Protocol):
    """Fetches data sets by name. A module may be a catalogue."""

    def check(self, url: str) -> None:
        """Raise UsageError if there is no such data set, StoreError without the server."""
        ...

    def version(self, url: str) -> str:
        """The data set's version according to the server."""
        ...

    def download(self, url: str, folder: Path, check: Check) -> None:
        """Fetch the data set into a folder, which may hold a part of it, and nothing else."""
        ...


def catalogue(url: str) -> Catalogue | None:
    """The catalogue that a url names; None for a plain url."""
    if not is_named(url):
        return None
    return next(found for prefix, found in _CATALOGUES.items() if url.startswith(prefix))


_CATALOGUES: dict[str, Catalogue] = {hub.SCHEME: hub, mdc.SCHEME: mdc}


def check_remote(url: str) -> None:
    """Check that there is an archive at the url. Its language is only checked when it is read.

    Raises UsageError if there is no archive, StoreError if the server is unavailable.
    """
    if (named := catalogue(url)) is not None:
        named.check(url)
        return
    # Comes first, because it refuses malformed urls.
    store = Store(url)
    if not Remote(url).name.lower().endswith(FILES):
        raise UsageError(
            f"corpus: {public(url)} is not an archive; a url must end in {', '.join(FILES)}"
            " (such as a Common Voice release)"
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
    if (named := catalogue(url)) is not None:
        return fetch_named(Remote(url), named, check)
    check_remote(url)
    return fetch_file(Remote(url), check)


def fetch_file(remote: Remote, check: Check, most_bytes: float = math.inf) -> Path:
    """The same for an existing file behind a plain url. Raises UsageError for one that is larger
    than `most_bytes`.
    """
    url, store = remote.url, Store(remote.url)
    with locked(remote.lock("lock"), fcntl.LOCK_EX, check):
        wanted = _described(store)
        if remote.entry() == wanted:
            os.utime(remote.folder)
            return remote.path
        if (wanted["bytes"] or 0) > most_bytes:
            raise _too_large(url, most_bytes)
        make_room(places.corpora_bytes() - (wanted["bytes"] or 0))
        remote.folder.mkdir(parents=True, exist_ok=True)
        part = remote.folder / f".part-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]}"
        for other in remote.folder.glob(".part-*"):
            # Parts of a release that was replaced before its download was complete.
            if other != part:
                other.unlink()

        def watch() -> None:
            check()
            # The server may not tell the size, or a wrong one.
            if part.exists() and part.stat().st_size > most_bytes:
                part.unlink()
                raise _too_large(url, most_bytes)

        _continue(store, part, watch)
        watch()
        if _begins(part, remote.page):
            part.unlink()
            raise StoreError(f"{public(url)}: a web page came in place of the file; {PAGE_FROM}")
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
        log.info("%s: %s is here, %d MB", remote.kind, public(url), size // 1_000_000)
        return remote.path


def _too_large(url: str, most_bytes: float) -> UsageError:
    return UsageError(f"{public(url)} has over {most_bytes / 2**30:.3g} GB; give a part of it")


def fetch_named(remote: Remote, source: Catalogue, check: Check) -> Path:
    """The same for a data set of a catalogue. Raises what the catalogue raises."""
    with locked(remote.lock("lock"), fcntl.LOCK_EX, check):
        version = source.version(remote.url)
        entry = remote.entry()
        if entry is not None and entry.get("version") == version:
            os.utime(remote.folder)
            return remote.path
        make_room(places.corpora_bytes())
        new = remote.folder / f".{DATA}"
        # A catalogue that can resume a download finds its part here.
        new.mkdir(parents=True, exist_ok=True)
        source.download(remote.url, new, check)
        size = _bytes_of(new)
        with locked(remote.lock("use"), fcntl.LOCK_EX, check):
            shutil.rmtree(remote.folder / DATA, ignore_errors=True)
            new.rename(remote.folder / DATA)
            entry = {"url": remote.url, "version": version, "bytes": size}
            write_json(remote.folder / ENTRY, entry)
        log.info("%s: %s is here, %d MB", remote.kind, remote.url, size // 1_000_000)
        return remote.path


def _bytes_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(it.stat().st_size for it in path.rglob("*") if it.is_file())


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
            log.info("%s is removed to free disk space", folder)
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


def _begins(path: Path, words: tuple[bytes, ...]) -> bool:
    """Whether a file begins with one of these words, after white space and in either case."""
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(words)


def _append(store: Store, part: Path, block_bytes: int, check: Check) -> None:
    with part.open("ab") as target:
        with store_errors(store.url):
            source = store.fs.open(store.key(""), "rb", block_size=block_bytes)
        with source:
            if target.tell():
                with store_errors(store.url):
                    source.seek(target.tell())
            for chunk in read_chunks(store.url, source, CHUNK_BYTES, check):
                target.write(chunk)
        target.flush()
        os.fsync(target.fileno())


def _described(store: Store) -> dict[str, Any]:
    """An entry for the server's current version."""
    info = store.info() or {}
    version = next((info[name] for name in VERSION_FIELDS if info.get(name)), "")
    return {"url": public(store.url), "bytes": info.get("size"), "version": str(version).strip('"')}
