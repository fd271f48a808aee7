"""The password and the secret of the pages, and the sessions that were ended by a logout.

LORAJOB_HOME/web/access.json and ended.json, only for their user.
"""

import json
import logging
import os
import secrets
import threading
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorajob.errors import ServiceError

FOLDER = "web"  # in LORAJOB_HOME
FILE = "access.json"
ENDED = "ended.json"

log = logging.getLogger(__name__)


class WebAccess(BaseModel):
    """The content of access.json."""

    model_config = ConfigDict(frozen=True)

    password: str = Field(repr=False, min_length=1)
    """Logs a person in, and is accepted as a key with the role `submit`."""
    secret: str = Field(repr=False, min_length=32)
    """Signs sessions. A new one ends all of them."""


def open_access(home: Path) -> tuple[WebAccess, bool]:
    """The password and the secret, and whether they were made by this call.

    Of several processes that start at a time, one makes them. Raises ServiceError.
    """
    folder = home / FOLDER
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = not path.exists() and _make(path)
        return WebAccess.model_validate_json(path.read_bytes()), made
    except ValidationError:
        raise ServiceError(f"{path} is damaged; remove it, and a new password is made") from None
    except OSError as error:
        raise ServiceError(f"{path}: {error.strerror}") from None


def _make(path: Path) -> bool:
    """Write a new file. False if another process was faster."""
    access = WebAccess(password=secrets.token_urlsafe(18), secret=secrets.token_urlsafe(32))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(access.model_dump_json(indent=2) + "\n")
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink()


class EndedSessions:
    """Sessions that a logout has ended: signature -> the time until which they would be valid.

    The file outlives a restart of the server.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ENDED
        self._lock = threading.Lock()
        try:
            found = json.loads(self._path.read_bytes())
            self._ended = {str(mark): float(until) for mark, until in found.items()}
        except (FileNotFoundError, NotADirectoryError):
            self._ended = {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.error("%s cannot be read: %s; ended sessions are valid again", self._path, error)
            self._ended = {}

    def __contains__(self, mark: str) -> bool:
        """Whether the session with this signature was ended."""
        return mark in self._ended

    def add(self, mark: str, until: float) -> None:
        """End a session. Those that are too old by now are forgotten."""
        with self._lock:
            now = time.time()
            kept = {mark: until for mark, until in self._ended.items() if until > now}
            self._ended = kept | {mark: until}
            temporary = self._path.with_name(f".{ENDED}.{os.getpid()}")
            try:
                temporary.unlink(missing_ok=True)
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(self._ended, file)
                temporary.replace(self._path)
            except OSError as error:
                log.error("%s cannot be written: %s", self._path, error)
