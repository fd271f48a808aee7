"""Folders of a user that are shared by all jobs, and the limits of their sizes."""

import grp
import os
from pathlib import Path

from lorajob.errors import UsageError


def home() -> Path:
    """`LORAJOB_HOME`, else the user's data folder for lorajob."""
    given = os.environ.get("LORAJOB_HOME")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "lorajob"


def models() -> Path:
    """Folder of base models in transformers' format, made from packages or CTranslate2 folders."""
    return home() / "models"


def cache() -> Path:
    """Folder of results that are cached by content."""
    return home() / "cache"


def cache_bytes() -> int:
    """`LORAJOB_CACHE_GB` (20) in bytes. Raises UsageError if it is not a number."""
    return _gigabytes("LORAJOB_CACHE_GB", "20")


def corpora() -> Path:
    """Folder of downloaded corpora."""
    return home() / "corpora"


def corpora_bytes() -> int:
    """`LORAJOB_CORPORA_GB` (200) in bytes. Raises UsageError if it is not a number."""
    return _gigabytes("LORAJOB_CORPORA_GB", "200")


def job_group() -> int | None:
    """The id of the group `LORAJOB_GROUP`, which may read and write the jobs' folders.

    Raises UsageError if there is no such group.
    """
    name = os.environ.get("LORAJOB_GROUP")
    if not name:
        return None
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(f"LORAJOB_GROUP: {name!r} is no group of this machine") from None


def _gigabytes(name: str, default: str) -> int:
    given = os.environ.get(name) or default
    try:
        return max(0, int(float(given) * 1e9))
    except (ValueError, OverflowError):
        raise UsageError(f"{name}: {given!r} is not a number of gigabytes") from None
