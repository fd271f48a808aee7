"""Processes on this machine, known by pid and start time, so that a reused pid is never ended.

Reads /proc and uses prctl: Linux. psutil is not used: its public start time follows the machine's
clock, so that after a step of the clock `lorajob down` would not find what up.json names.
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
KILL_SECONDS = 5.0  # how long the kernel may take over a SIGKILL

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0  # one that ran this long has recovered: the backoff begins anew


class Identity(BaseModel):
    """One process and no other: a pid is used again, a pid with its start time is not."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: int  # clock ticks since boot


def identify(pid: int) -> Identity | None:
    """The identity of a running process; None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    if fields[STATE_FIELD - 3] in "ZX":
        return None
    return Identity(pid=pid, started=int(fields[START_TIME_FIELD - 3]))


def lives(identity: Identity) -> bool:
    """True while this very process runs."""
    return identify(identity.pid) == identity


def spawn(
    command: list[str],
    *,
    env: Mapping[str, str],
    log: Path | None,
    death_signal: signal.Signals,
    stdin: str = "",
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own that gets `death_signal` if this process dies.

    `log` is where it writes, None for where this process does. `stdin` is given to it whole, then
    closed: the way for what must not stand in arguments. Call from the main thread, since the
    kernel watches the thread that started the child.
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
            pass  # it died at once; whoever watches it will see that
    return child


def signal_process(identity: Identity, number: signal.Signals) -> None:
    """Send a signal to this very process; one that is gone is no matter."""
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
    """Wait until none of them runs; False if some still do after `seconds`, or once `hurried`."""
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
    """SIGTERM, and SIGKILL for those that are still there after `seconds`, or once `hurried`."""
    remaining = list(identities)
    for identity in remaining:
        signal_process(identity, signal.SIGTERM)
    if wait_gone(remaining, seconds, hurried):
        return
    for identity in remaining:
        signal_process(identity, signal.SIGKILL)
    wait_gone(remaining, KILL_SECONDS)


def _die_with_parent(number: signal.Signals) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: nothing is, after it
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, up to half a minute."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** (failures - 1), LONGEST_BACKOFF_SECONDS)
