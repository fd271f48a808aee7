"""Processes as /proc tells of them, and a limit that stands in for a full disk."""

import contextlib
import os
import resource
from pathlib import Path


def process_ids() -> list[int]:
    """All processes of this machine."""
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdecimal()]


def command_line(pid: int) -> str:
    """The arguments of a process, as anybody on the machine may read them; "" if it has ended."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return data.replace(b"\0", b" ").decode(errors="replace")


def running(pid: int) -> bool:
    try:
        return _stat(pid)[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The processes right below one, but for those that have ended."""
    return [child for child in _by_parent().get(pid, []) if running(child)]


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    parents, found, waiting = _by_parent(), [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += parents.get(one, [])
    return found


def sessions(pid: int) -> list[int]:
    """The processes below one that lead a session of their own, as workers do."""
    found = []
    for one in descendants(pid)[1:]:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            if os.getsid(one) == one:
                found.append(one)
    return found


def _stat(pid: int) -> list[str]:
    """The fields behind the name, which may be cut within a letter. Raises OSError."""
    text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def _by_parent() -> dict[int, list[int]]:
    parents: dict[int, list[int]] = {}
    for pid in process_ids():
        try:
            parent = int(_stat(pid)[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(pid)
    return parents


def limit_files(pid: int, size: int) -> None:
    """Let a process write no file beyond `size` bytes, as a full disk would; -1 lifts it."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
