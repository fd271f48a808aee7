"""Ports that no other process is given by chance between the question and their use.

A connection gets a port of ip_local_port_range, and so does a program that asks for any port. These
ports are below that range, or above it if it begins too low. Processes with neighbouring numbers
begin STEP ports apart, which is more than one test takes.
"""

import itertools
import os
import socket
from pathlib import Path

LOWEST, HIGHEST = 12_000, 65_535
STEP = 211  # a prime, so that processes begin everywhere
FEWEST = 1_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def never_given(path: Path = RANGE) -> range:
    """Ports that no connection gets; any high ones if there are too few."""
    try:
        first, last = map(int, path.read_text().split())
    except OSError:
        first, last = 32_768, HIGHEST
    if first - LOWEST >= FEWEST:
        return range(LOWEST, first)
    if HIGHEST - last >= FEWEST:
        return range(last + 1, HIGHEST + 1)
    return range(LOWEST, HIGHEST + 1)


PORTS = never_given()
_turns = itertools.count(os.getpid() * STEP)


def free_port() -> int:
    """A port of 127.0.0.1 that is free, another one at each call."""
    for _ in PORTS:
        port = PORTS[next(_turns) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")
