"""Which service a job belongs to. One Redis is one service; several may share a folder or store.

Redis holds a random id, made with its first job. Each record states the id and the address of that
Redis, and job.json repeats both. A Redis that lost its data has no id, but the same address.
"""

import secrets
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from redis import Redis

from lorajob.worker.connect import redis_url
from lorajob.worker.records.record import JobRecord
from lorajob.worker.redis_url import parse_place
from lorajob.worker.settings import Settings

KEY = "lorajob:service"
REDIS_PORT = 6379


@dataclass(frozen=True)
class Origin:
    """A service. `id` is None for a Redis that never held a job, or that lost its data."""

    id: str | None
    address: str

    def has(self, record: JobRecord) -> bool:
        """Whether a job of job.json belongs to this service. One of an older version does."""
        if record.service is None or record.service == self.id:
            return True
        return self.id is None and record.redis == self.address

    def mark(self, record: JobRecord) -> JobRecord:
        """The record as one of this service."""
        return record.model_copy(update={"service": self.id, "redis": self.address})


def read_origin(redis: Redis, settings: Settings) -> Origin:
    """The service of a Redis. Raises RedisError, and UsageError for a malformed url."""
    found = redis.get(KEY)
    return Origin(None if found is None else str(found), redis_address(settings))


def make_origin(redis: Redis, settings: Settings) -> Origin:
    """As `read_origin`; a Redis without an id gets one."""
    redis.set(KEY, secrets.token_hex(8), nx=True)
    return read_origin(redis, settings)


def redis_address(settings: Settings) -> str:
    """Where a service's Redis is, without user and password.

    A loopback address means another Redis on each machine, so the machine's name is part of it. The
    Redis of `lorajob up` has another port after each start; its home stands for it.
    """
    here = socket.gethostname()
    if settings.redis_url is None:
        return f"{here} {settings.home.expanduser().resolve()}"
    place = parse_place(redis_url(settings))
    parts = urlsplit(place.url)
    database = parts.path.strip("/") or "0"
    if place.sentinels:
        hosts = ",".join(sorted(f"{host}:{port}" for host, port in place.sentinels))
        return f"{hosts}/{database} {place.master}"
    host = parts.hostname or "localhost"
    address = f"{host}:{parts.port or REDIS_PORT}/{database}"
    return f"{here} {address}" if _is_loopback(host) else address


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
