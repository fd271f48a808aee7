"""up.json: the processes that `lorajob up` started, for `down` and the other commands."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorajob.errors import ServiceError
from lorajob.worker.machine.processes import Identity


class StackInfo(BaseModel):
    """A running stack. Holds passwords, so only its user can read the file; never printed whole."""

    model_config = ConfigDict(frozen=True)

    redis_url: str = Field(repr=False)
    flower_url: str | None = None
    flower_user: str | None = None
    flower_password: str | None = Field(None, repr=False)
    web_url: str | None = None  # of `lorajob web`, which may still be starting
    serve_url: str | None = None
    supervisor: Identity
    processes: dict[str, Identity] = {}
    ready: bool = False

    def save(self, home: Path) -> None:
        """Write up.json atomically, readable by its user only."""
        path = home / "up.json"
        temporary = home / f".up.json.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self.model_dump_json(indent=2) + "\n")
        temporary.replace(path)

    @classmethod
    def load(cls, home: Path) -> "StackInfo | None":
        """The content of up.json; None if it is missing or malformed."""
        try:
            return cls.model_validate(json.loads((home / "up.json").read_text("utf-8")))
        except (OSError, ValueError, ValidationError):
            return None


def forget(home: Path) -> None:
    """Remove up.json."""
    (home / "up.json").unlink(missing_ok=True)


@contextmanager
def only_stack(home: Path) -> Iterator[None]:
    """Hold the lock of the only stack in a home. The kernel frees it when the process ends.

    Raises ServiceError if another process holds it.
    """
    with (home / "up.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(f"already up in {home}; `lorajob down` stops it") from None
        yield


def is_up(home: Path) -> bool:
    """True while a process holds the lock of `only_stack`."""
    try:
        with only_stack(home):
            return False
    except FileNotFoundError:
        return False
    except ServiceError:
        return True
