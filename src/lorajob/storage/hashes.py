"""Hashes of large files, kept in LORAJOB_HOME/models/.hashes by path, size, inode and times."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from lorajob.job.jobdir import hash_file, write_json
from lorajob.storage import places

# A file that changed so recently may change again without a new time of change.
SETTLED_SECONDS = 2.0


def file_hash(path: Path) -> str:
    """The SHA-256 of a large file, which is only read if it has changed since the last call."""
    path = path.resolve()
    entry = places.models() / ".hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
    stamp = _stamp(path)
    with suppress(OSError, ValueError, LookupError, TypeError):
        kept = json.loads(entry.read_bytes())
        if kept["stamp"] == stamp:
            return str(kept["sha256"])
    digest = hash_file(path)
    if _stamp(path) == stamp and time.time() - max(stamp[2:]) / 1e9 > SETTLED_SECONDS:
        with suppress(OSError):  # without the entry the file is read again
            write_json(entry, {"stamp": stamp, "sha256": digest})
    return digest


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
