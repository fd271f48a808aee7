"""Keeps the logs of a stack small. Programs hold them open, so they are copied and emptied."""

import logging
import os
import shutil
import time
from pathlib import Path

from lorajob.worker.settings import Settings

KEPT = 3  # older logs: NAME.log.1 is the newest
PERIOD_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Rotation:
    """Rotates the logs in a folder that have grown too large."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._most = settings.log_mb * 1e6
        self._due = 0.0  # monotonic

    def tend(self) -> None:
        """Look at the logs every PERIOD_SECONDS. An error, such as a full disk, is only logged."""
        if not self._most or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PERIOD_SECONDS
        for path in self._folder.glob("*.log"):
            try:
                if path.stat().st_size > self._most:
                    rotate(path)
            except OSError as error:
                logger.warning("%s cannot be rotated: %s", path, error)


def rotate(path: Path, kept: int = KEPT) -> None:
    """Move the text of a log to PATH.1, that of PATH.1 to PATH.2, and so on; drop the oldest.

    The writers must have opened the log for appending. Text that they add while this function
    copies is copied too. Raises OSError; the log then has all its text.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        with path.open("rb") as source, new.open("wb") as target:
            new.chmod(0o600)
            shutil.copyfileobj(source, target)
            for number in range(kept, 1, -1):
                older = path.with_name(f"{path.name}.{number - 1}")
                if older.exists():
                    older.replace(path.with_name(f"{path.name}.{number}"))
            new.replace(path.with_name(f"{path.name}.1"))
            shutil.copyfileobj(source, target)  # what was added meanwhile
            target.flush()
            os.truncate(path, 0)
    finally:
        new.unlink(missing_ok=True)
