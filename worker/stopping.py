"""How the processes of a worker stop, and how they handle signals.

A worker's main process gets SIGTERM or SIGHUP and creates a flag file. The supervisors in the
pool's children look for that file, because a signal may reach the main process only, and Redis may
be unavailable by then. A service manager may also signal every process at once, as systemd does by
default. A pool child that runs a stage therefore takes SIGTERM as a request to stop too.
"""

import logging
import os
import signal
import stat
import time
from pathlib import Path
from types import FrameType

STOP_FILE = "LORAJOB_WORKER_STOP_FILE"  # set by a worker for its own pool children

logger = logging.getLogger(__name__)
# `nohup` ignores SIGHUP before this process starts. Celery would handle the signal later.
_keeps_on_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
_told = False


def stopping() -> bool:
    """True in a pool child once it or its worker was told to stop."""
    path = os.environ.get(STOP_FILE)
    return _told or (path is not None and Path(path).exists())


def raise_stop_file() -> None:
    """Create the flag file of this worker; an error, such as a full disk, is only logged."""
    path = os.environ.get(STOP_FILE)
    if path is None:
        return
    try:
        # A cleaner of /tmp may have removed the folder.
        Path(path).parent.mkdir(mode=0o700, exist_ok=True)
        Path(path).touch()
    except OSError as error:
        logger.warning("stages cannot be told to stop: %s", error)


def handled(*numbers: signal.Signals) -> tuple[signal.Signals, ...]:
    """The signals of `numbers` that this process should handle: all but SIGHUP under `nohup`."""
    return tuple(n for n in numbers if n != signal.SIGHUP or not _keeps_on_hangup)


def stop_on_hangup() -> None:
    """Have SIGHUP do what SIGTERM does in this process, unless it runs under `nohup`.

    Celery would execute itself again.
    """
    if _keeps_on_hangup:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return

    def stop(number: int, frame: FrameType | None) -> None:
        leave_terminal()
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler):
            handler(signal.SIGTERM, frame)

    signal.signal(signal.SIGHUP, stop)


def leave_terminal() -> None:
    """Replace standard streams whose terminal has closed, where each write would be an error."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        try:
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                os.dup2(null, stream)
        except OSError:
            continue  # it was closed before
    os.close(null)


def stop_by_stage(seconds: float) -> None:
    """Have SIGTERM end this pool child by ending its stage, which saves a checkpoint first.

    `seconds` after the worker was told to stop, SIGTERM ends the child at once: Celery then sends
    it to a child that did not end in time.
    """

    def note(number: int, frame: FrameType | None) -> None:
        global _told
        if _stopping_for() > seconds:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        _told = True

    signal.signal(signal.SIGTERM, note)


def _stopping_for() -> float:
    """Seconds since the worker was told to stop; 0 if it was not."""
    try:
        return time.time() - Path(os.environ.get(STOP_FILE, "")).stat().st_mtime
    except OSError:
        return 0.0
