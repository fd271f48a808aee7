"""Ports that no other process is given by chance between the question and their use.

A connection gets a port of ip_local_port_range, and so does a program that asks for any port. These
ports are below that range, and each process of the tests begins at another one.
"""

import itertools
import os
import socket
from pathlib import Path

LOWEST = 12_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _lowest_given() -> int:
    try:
        return max(LOWEST + 1000, int(RANGE.read_text().split()[0]))
    except OSError:
        return 32_768


COUNT = _lowest_given() - LOWEST
_turns = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port of 127.0.0.1 that is free, another one at each call."""
    for _ in range(COUNT):
        port = LOWEST + next(_turns) % COUNT
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")
