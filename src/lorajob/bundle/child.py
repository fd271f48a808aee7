"""Makes a bundle in a process of its own, for a server without torch.

It runs as python -m lorajob.bundle.child. Standard input is one line, a BundleOrder in JSON; when
standard input ends, the process group ends, too. Standard output is a BundleNews in JSON on each
line. The last one has `done` or `error`; without it, the process broke, and standard error says
why.
"""

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lorajob import logs
from lorajob.cores import share_cpu
from lorajob.errors import LorajobError
from lorajob.job.jobdir import JobDir


class BundleOrder(BaseModel):
    """Which bundle is made of which job, and where."""

    model_config = ConfigDict(frozen=True)

    job: Path
    """The job's folder."""
    target: Path
    """An empty folder for the bundle."""
    forms: tuple[str, ...]
    license: str | None = None
    base_model: str | None = None
    """The base model's name on the Hub, if the job took it from a folder."""
    base_revision: str | None = None
    repo: str | None = None
    """OWNER/NAME on the Hub, if the bundle goes there."""
    force: bool = False
    """Although the gate failed."""
    check: int = 0
    """Test clips on which each form is scored."""


class BundleNews(BaseModel):
    """What happened."""

    model_config = ConfigDict(frozen=True)

    progress: str | None = None
    """The part that is made now."""
    error: str | None = None
    kind: str = "error"
    """Of the error, as in errors.py."""
    done: tuple[str, ...] | None = None
    """Notes about the finished bundle."""


def make(order: BundleOrder) -> tuple[str, ...]:
    """Make the bundle, and return notes about it. Raises LorajobError."""
    # Must come before torch is loaded.
    share_cpu(os.environ)
    from lorajob.bundle.make import make_bundle, notes, plan_bundle

    job = JobDir(order.job)
    facts, made = plan_bundle(
        job,
        order.forms,
        order.license,
        (order.base_model, order.base_revision),
        order.repo,
        order.force,
        order.check,
    )
    make_bundle(job, order.target, facts, made, lambda text: _tell(BundleNews(progress=text)))
    return notes(facts, made)


def _tell(news: BundleNews) -> None:
    print(news.model_dump_json(), file=sys.__stdout__, flush=True)


def main() -> int:
    """Make the ordered bundle. Returns the exit code: 0, or 1 after an error that was told."""
    order = BundleOrder.model_validate_json(sys.stdin.readline())
    _end_with_server()
    try:
        with logs.quiet_libraries(everything=True):
            told = make(order)
    except LorajobError as error:
        _tell(BundleNews(error=str(error), kind=error.kind))
        return 1
    except OSError as error:
        logging.getLogger(__name__).exception("the export broke")
        _tell(BundleNews(error=f"{error.filename or order.target}: {error.strerror}", kind="disk"))
        return 1
    _tell(BundleNews(done=told))
    return 0


def _end_with_server() -> None:
    """Kill the whole process group when standard input ends, because the server has ended."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
