"""What was worked out once, kept by content in LORAJOB_HOME/cache for the next job that needs it.

    CACHE/KIND/KEY/entry.json    what was kept beside the files, and their sizes and hashes
    CACHE/KIND/KEY/files/        hard links to a job's files (copies where it lies on another disk)

Nothing here is ever needed: an entry that is missing, damaged or in use is worked out anew. The
entries longest unused go where all take more than `LORAJOB_CACHE_GB` (20; 0 keeps nothing).
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lorajob import places
from lorajob.jobdir import hash_files, write_json

ENTRY = "entry.json"
FILES = "files"

log = logging.getLogger(__name__)


def key(**parts: Any) -> str:
    """The name of an entry: a hash of all that decides its content. `parts` are JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(kind: str, name: str, target: Path | None = None) -> dict[str, Any] | None:
    """What `keep` was given beside the files, which are put into `target`; None without an entry.

    The files are hashed again first, and a damaged entry is removed.
    """
    entry = places.cache() / kind / name
    try:
        kept = json.loads((entry / ENTRY).read_bytes())
        if kept["files"] != hash_files(entry / FILES):
            raise ValueError("files differ from their hashes")
        if target is not None:
            _link_tree(entry / FILES, target)
        os.utime(entry)
        value: dict[str, Any] = kept["value"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.warning("cache: %s is removed: %s", entry, error)
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return value


def keep(kind: str, name: str, value: dict[str, Any], files: Path | None = None) -> None:
    """Remember `value` and what is in the folder `files`. Without room or rights, nothing is."""
    limit = places.cache_bytes()
    parent = places.cache() / kind
    if not limit:
        return
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        try:
            (scratch / FILES).mkdir()
            if files is not None:
                _link_tree(files, scratch / FILES)
            write_json(scratch / ENTRY, {"value": value, "files": hash_files(scratch / FILES)})
            if not (parent / name).exists():
                scratch.rename(parent / name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        prune(limit)
    except OSError as error:
        log.warning("cache: %s is not kept: %s", parent / name, error)


def prune(limit: int) -> None:
    """Remove the entries longest unused until all files take at most `limit` bytes."""
    entries = [path.parent for path in places.cache().glob(f"*/*/{ENTRY}")]
    entries.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    total = 0
    for entry in entries:
        total += sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
        if total > limit:
            shutil.rmtree(entry, ignore_errors=True)


def _link_tree(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, place)
            except OSError:  # another file system, or one without links
                place.unlink(missing_ok=True)
                shutil.copyfile(path, place)
