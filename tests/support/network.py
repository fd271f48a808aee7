"""Hosts of their own on one machine: network namespaces on one bridge, and cables to be cut."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support import needs

# of the range for tests between hosts (RFC 2544): no network that this machine is in
NETWORK = "198.18.{subnet}"


@dataclass(frozen=True)
class Host:
    """A namespace, and the bridge's end of its cable."""

    namespace: str
    cable: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before a command that runs there; it becomes that command, of the same id."""
        return (_ip_program(), "netns", "exec", self.namespace)

    def cut(self) -> None:
        """No packet goes in or out from here on; nobody is told."""
        _ip("link", "set", self.cable, "down")

    def mend(self) -> None:
        _ip("link", "set", self.cable, "up")


@contextmanager
def hosts(count: int) -> Iterator[tuple[str, list[Host]]]:
    """The address of this machine on a bridge, and `count` hosts that reach it and each other."""
    if os.geteuid() != 0:
        needs.missing("needs root, to make network namespaces")
    _ip_program()
    mark = f"lj{os.getpid()}"
    network = NETWORK.format(subnet=os.getpid() % 256)
    made = [Host(f"{mark}-{number}", f"{mark}c{number}") for number in range(count)]
    try:
        _ip("link", "add", mark, "type", "bridge")
        _ip("addr", "add", f"{network}.1/24", "dev", mark)
        _ip("link", "set", mark, "up")
        for number, host in enumerate(made):
            inside = ("netns", host.namespace)
            _ip("netns", "add", host.namespace)
            _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", *inside)
            _ip("link", "set", host.cable, "master", mark, "up")
            for device in ("lo", "eth0"):
                _ip("-n", host.namespace, "link", "set", device, "up")
            _ip("-n", host.namespace, "addr", "add", f"{network}.{number + 11}/24", "dev", "eth0")
        yield f"{network}.1", made
    finally:
        for host in made:
            _ip("netns", "del", host.namespace, check=False)  # its end of the cable goes with it
            _ip("link", "del", host.cable, check=False)
        _ip("link", "del", mark, check=False)


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run([_ip_program(), *words], capture_output=True, text=True)
    if check and "not permitted" in done.stderr:  # root in a container
        needs.missing(f"needs the right to make network namespaces: {done.stderr.strip()}")
    assert done.returncode == 0 or not check, done.stderr


def _ip_program() -> str:
    found = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
    return found or needs.missing("needs the program ip: install the package iproute2")
