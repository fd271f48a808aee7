"""Processes of this machine, identified by pid and start time, so that no reused pid is killed.

Reads /proc and uses prctl, so it works on Linux only. psutil is not used, because its public start
time follows the machine's clock: after a step of the clock `lorajob down` would not find the
processes that up.json names.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path

from pydantic import BaseModel, ConfigDict

PR_SET_PDEATHSIG = 1  # linux/prctl.h
START_TIME_FIELD = 22  # of /proc/PID/stat, in clock ticks since boot; see proc(5)
STATE_FIELD = 3
TICK_SECONDS = 0.1
KILL_SECONDS = 5.0  # how long to wait for the effect of a SIGKILL

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0  # after a run of this length the backoff starts from its beginning


class Identity(BaseModel):
    """Identifies one process. A pid may be reused; a pid with its start time is unique."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: int  # clock ticks since boot


def identity_of(pid: int) -> Identity | None:
    """The identity of a running process; None if it has ended or is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # skips the name, which may hold spaces and brackets
    if fields[STATE_FIELD - 3] in "ZX":
        return None
    return Identity(pid=pid, started=int(fields[START_TIME_FIELD - 3]))


def lives(identity: Identity) -> bool:
    """True while the process runs."""
    return identity_of(identity.pid) == identity


def spawn(
    command: list[str],
    *,
    env: Mapping[str, str],
    log: Path | None,
    death_signal: signal.Signals,
    stdin: str = "",
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own. It gets `death_signal` if this process dies.

    `log` is the file for its output; None is the output of this process. `stdin` is written to its
    standard input, which is then closed; use it for secrets, which must not be in arguments. Call
    this from the main thread: the kernel sends the signal when the thread that started the child
    ends.
    """
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") if log is not None else nullcontext() as stream:
        child = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=_die_with_parent(death_signal),
        )
    if child.stdin is not None:
        try:
            child.stdin.write(stdin.encode())
            child.stdin.close()
        except BrokenPipeError:
            pass  # it died at once, which the caller notices when it waits for it
    return child


def signal_process(identity: Identity, number: signal.Signals) -> None:
    """Send a signal to the process, if it still runs."""
    if lives(identity):
        try:
            os.kill(identity.pid, number)
        except ProcessLookupError:
            return


def never() -> bool:
    """The default of `hurried`."""
    return False


def wait_gone(
    identities: Iterable[Identity], seconds: float, hurried: Callable[[], bool] = never
) -> bool:
    """Wait until all have ended; False if some still run after `seconds`, or once `hurried`."""
    remaining = list(identities)
    deadline = time.monotonic() + seconds
    while remaining := [identity for identity in remaining if lives(identity)]:
        if time.monotonic() >= deadline or hurried():
            return False
        time.sleep(TICK_SECONDS)
    return True


def end(
    identities: Iterable[Identity], seconds: float, hurried: Callable[[], bool] = never
) -> None:
    """Send SIGTERM, and SIGKILL to those that still run after `seconds`, or once `hurried`."""
    remaining = list(identities)
    for identity in remaining:
        signal_process(identity, signal.SIGTERM)
    if wait_gone(remaining, seconds, hurried):
        return
    for identity in remaining:
        signal_process(identity, signal.SIGKILL)
    wait_gone(remaining, KILL_SECONDS)


def _die_with_parent(number: signal.Signals) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)  # before the fork, after which loading is not safe
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return prepare


def backoff(failures: int) -> float:
    """Seconds to wait after `failures` in a row. They double, up to LONGEST_BACKOFF_SECONDS."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** (failures - 1), LONGEST_BACKOFF_SECONDS)
