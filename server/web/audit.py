"""The audit log: LORAJOB_HOME/web/audit.jsonl, one JSON object for each change."""

import fcntl
import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lorajob.server.web.auth import Principal

FILE = "audit.jsonl"
MOST_BYTES = 10 << 20  # then it becomes audit.jsonl.1
KEPT = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AuditLog:
    """Appends to the audit log in `folder`. Several processes may write."""

    folder: Path
    most_bytes: int = MOST_BYTES

    @property
    def path(self) -> Path:
        """The newest file."""
        return self.folder / FILE

    def write(self, who: Principal, what: str, job: str | None = None, **more: object) -> None:
        """Note a change that was made: `what` is such as `submit`, `cancel`, `promote`.

        The change is made already, so an error is only logged.
        """
        values: dict[str, object] = {
            "at": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"),
            "who": who.name,
            "role": who.role,
            "by": "key" if who.csrf is None else "session",
            "what": what,
        }
        values |= {"job": job} if job is not None else {}
        line = json.dumps(values | more, ensure_ascii=False, default=str) + "\n"
        try:
            self._append(line.encode("utf-8", "surrogateescape"))
        except OSError as error:
            log.error("%s cannot be written: %s; it lacks %s", self.path, error, line.rstrip())

    def _append(self, line: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.folder / f".{FILE}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._rotate(len(line))
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(file, line)
            finally:
                os.close(file)
        finally:
            os.close(lock)

    def _rotate(self, more: int) -> None:
        if not self.path.exists() or self.path.stat().st_size + more <= self.most_bytes:
            return
        for number in range(KEPT, 1, -1):
            with suppress(FileNotFoundError):
                self._old(number - 1).replace(self._old(number))
        self.path.replace(self._old(1))

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{FILE}.{number}")
