"""Caches results by content in LORAJOB_HOME/cache, for the next job that needs them.

    CACHE/KIND/KEY/entry.json    a value, and the sizes and hashes of the files
    CACHE/KIND/KEY/files/        hard links to a job's files, or copies if it is on another disk

No entry is essential: a missing, damaged or used entry is computed again. If all entries take more
than `LORAJOB_CACHE_GB` (20; 0 keeps nothing), those unused longest are removed.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorajob.job.jobdir import hash_files, write_json
from lorajob.storage import places
from lorajob.storage.folders import keep_newest, put_aside, used_at

ENTRY = "entry.json"
FILES = "files"
NEW = ".new-"
LEFT_SECONDS = 86_400  # a temporary folder of this age was left by a killed process

log = logging.getLogger(__name__)


def key(**parts: Any) -> str:
    """The name of an entry: a hash of everything that decides its content. `parts` are JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def lookup(kind: str, name: str, target: Path | None = None) -> dict[str, Any] | None:
    """Put the files of an entry into `target` and return its value; None without an entry.

    Everything is hashed again first, and a damaged entry is removed. If the files cannot be put
    into `target`, it stays as it was.
    """
    entry = places.cache() / kind / name
    try:
        kept = json.loads((entry / ENTRY).read_bytes())
        value: dict[str, Any] = kept["value"]
        if kept["sha256"] != key(value=value) or kept["files"] != hash_files(entry / FILES):
            raise ValueError("not what was kept")
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        log.warning("cache: %s is removed: %s", entry, error)
        _remove(entry)
        return None
    try:
        if target is not None:
            _link(entry / FILES, target, kept["files"])
        os.utime(entry)
    # No disk space, or another process has removed the entry.
    except OSError as error:
        log.warning("cache: %s is not used: %s", entry, error)
        return None
    return value


def keep(kind: str, name: str, value: Mapping[str, object], files: Path | None = None) -> None:
    """Store `value` and the files in the folder `files`. If that fails, only logs a warning."""
    limit = places.cache_bytes()
    parent = places.cache() / kind
    if not limit or (parent / name / ENTRY).exists():
        return
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=NEW, dir=parent))
        try:
            (scratch / FILES).mkdir()
            if files is not None:
                names = [path.relative_to(files).as_posix() for path in files.rglob("*")]
                _link(files, scratch / FILES, [it for it in names if (files / it).is_file()])
            entry = {"value": value, "sha256": key(value=value)}
            write_json(scratch / ENTRY, entry | {"files": hash_files(scratch / FILES)})
            _remove(parent / name)
            scratch.rename(parent / name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        trim(limit)
    except OSError as error:
        log.warning("cache: %s is not kept: %s", parent / name, error)


def trim(limit: int) -> None:
    """Remove the entries unused longest until all files take at most `limit` bytes.

    Also removes temporary folders that killed processes have left.
    """
    entries = [path for path in places.cache().glob("*/*") if not path.name.startswith(".")]
    keep_newest(entries, limit, _remove)
    for path in places.cache().glob("*/.*"):
        if time.time() - used_at(path) > LEFT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _remove(entry: Path) -> bool:
    """Remove an entry. For other processes it disappears at once. Always returns True."""
    try:
        gone = put_aside(entry, f".{os.getpid()}")
    except OSError:
        return True
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _link(source: Path, target: Path, names: Iterable[str]) -> None:
    """Link the files `names` of `source` into `target`, all or none. Raises OSError."""
    done: list[Path] = []
    try:
        for name in names:
            if Path(name).name.startswith("."):
                continue
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            done.append(place)
            try:
                os.link(source / name, place)
            # Another file system, or one without hard links.
            except OSError:
                shutil.copyfile(source / name, place)
    except OSError:
        for place in done:
            place.unlink(missing_ok=True)
        raise
