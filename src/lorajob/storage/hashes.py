"""Hashes of files, kept in LORAJOB_HOME/models/.hashes by path, size, inode and times."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lorajob.job.jobdir import hash_file, write_json
from lorajob.storage import places

# A file that changed so recently may change again without a new time of change.
SETTLED_SECONDS = 2.0


def file_hash(path: Path) -> str:
    """The SHA-256 of a large file, which is only read if it has changed since the last call."""
    return _kept(path, "", hash_file)


def values_hash(path: Path) -> str:
    """The SHA-256 of a JSON file's values, or of its bytes if it is not JSON.

    It is kept, because a tokenizer's takes a quarter of a second.
    """
    return _kept(path, "-values", _hash_values)


def _kept(path: Path, suffix: str, compute: Callable[[Path], str]) -> str:
    path = path.resolve()
    name = hashlib.sha256(os.fsencode(path)).hexdigest() + suffix
    entry = places.models() / ".hashes" / f"{name}.json"
    stamp = _stamp(path)
    with suppress(OSError, ValueError, LookupError, TypeError):
        kept = json.loads(entry.read_bytes())
        if kept["stamp"] == stamp:
            return str(kept["sha256"])
    digest = compute(path)
    if settled_stamp(path) == stamp:
        with suppress(OSError):  # without the entry the file is read again
            write_json(entry, {"stamp": stamp, "sha256": digest})
    return digest


def _hash_values(path: Path) -> str:
    data = path.read_bytes()
    with suppress(ValueError):
        data = json.dumps(json.loads(data), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def settled_stamp(path: Path) -> list[int] | None:
    """What tells that a file has changed: its size, inode and times. None if it just has."""
    stamp = _stamp(path)
    return stamp if time.time() - max(stamp[2:]) / 1e9 > SETTLED_SECONDS else None


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
