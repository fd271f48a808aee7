"""A terminal of a given width, and what `lorajob` shows on it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

from tests.support.command import LORAJOB

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def open_terminal(columns: int, lines: int = 24) -> tuple[int, int]:
    """The side that a person reads, and the one that a command writes to."""
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    return keyboard, terminal


def drain(keyboard: int) -> bytes:
    """All that is still written to a terminal until its other side is closed."""
    data = b""
    while True:
        try:
            chunk = os.read(keyboard, 65536)
        except OSError:  # how Linux reports the end of a pseudo-terminal
            return data
        if not chunk:
            return data
        data += chunk


def shown(*args: str, env: dict[str, str], columns: int) -> list[str]:
    """The lines that `lorajob ARGS` shows on a terminal, without colours."""
    keyboard, terminal = open_terminal(columns)
    with subprocess.Popen(
        [*LORAJOB, *args], env=of_terminal(env), stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        screen = drain(keyboard)
    os.close(keyboard)
    assert process.returncode == 0, screen
    return plain(screen)


def of_terminal(env: dict[str, str]) -> dict[str, str]:
    """Variables under which a command asks the terminal itself for its width."""
    return {name: value for name, value in env.items() if name != "COLUMNS"} | {"TERM": "xterm"}


def plain(screen: bytes) -> list[str]:
    """The lines on a screen, whatever their colours."""
    return [line.rstrip() for line in CONTROL.sub("", screen.decode()).splitlines()]
