"""Limits that each client has for itself, and all clients have together."""

import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from lorajob.server.errors import ApiError

FAILURES_A_MINUTE = 30  # wrong passwords from one address
ALL_FAILURES_A_MINUTE = 300
STREAMS = 32  # open at a time, of one client; each open page has one
ALL_STREAMS = 512
STREAM_RETRY_SECONDS = 5.0
TURN_RETRY_SECONDS = 10.0
IPV6_PREFIX = 64  # what a provider gives to one customer


class LoginLimit:
    """Counts wrong passwords by address, so that one client does not lock out the others."""

    def __init__(self) -> None:
        self._failures: list[tuple[float, str]] = []

    def check(self, address: str) -> None:
        """Raise ApiError 429 after too many wrong passwords."""
        now = _now()
        self._failures = [it for it in self._failures if it[0] > now - 60]
        own = [at for at, other in self._failures if other == network(address)]
        if len(own) >= FAILURES_A_MINUTE:
            raise _too_many(own[-FAILURES_A_MINUTE] + 60 - now)
        if len(self._failures) >= ALL_FAILURES_A_MINUTE:
            raise _too_many(self._failures[0][0] + 60 - now)

    def failed(self, address: str) -> None:
        """Count a wrong password."""
        self._failures.append((_now(), network(address)))


def _now() -> float:
    return time.monotonic()


def network(address: str) -> str:
    """The address; of IPv6 the network, because one client has all its addresses."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False))


def _too_many(seconds: float) -> ApiError:
    said = "Too many wrong passwords; try again later"
    return ApiError(429, said, code="rate_limit_exceeded", retry_after=max(1.0, seconds))


class StreamLimit:
    """Counts the streams of events that are open. Use it in one event loop."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def slot(self, client: str) -> Iterator[None]:
        """One stream of a client, while the block runs. Raises ApiError 429 and 503."""
        if self._open[client] >= STREAMS:
            raise ApiError(
                429,
                f"{STREAMS} streams of events are open; close some, or ask again later",
                code="rate_limit_exceeded",
                retry_after=STREAM_RETRY_SECONDS,
            )
        if self._open.total() >= ALL_STREAMS:
            raise ApiError(
                503,
                f"{ALL_STREAMS} streams of events of all clients are open; ask again later",
                retry_after=STREAM_RETRY_SECONDS,
            )
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


@contextmanager
def one_of(turns: threading.BoundedSemaphore, said: str) -> Iterator[None]:
    """One of a few things that are done at a time, while the block runs. Raises ApiError 429."""
    if not turns.acquire(blocking=False):
        raise ApiError(429, f"{said}; try again later", retry_after=TURN_RETRY_SECONDS)
    try:
        yield
    finally:
        turns.release()
