"""Parses a Redis url for redis-py, Celery and Flower.

redis://[user:password@]host[:port]/db
rediss://...            the same over TLS; the server's certificate is verified against the
                        system's authorities, or ?ssl_ca_certs=FILE; ssl_certfile and
                        ssl_keyfile name a client's certificate
sentinel://[user:password@]host:26379,host:26379/db?master=NAME
                        the Redis that these Sentinels call NAME; user and password are for
                        that Redis, ?sentinel_password= is for the Sentinels
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis import Redis
from redis.sentinel import Sentinel

SCHEMES = ("redis", "rediss", "sentinel")
SENTINEL_PORT = 26379
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
VERIFIED = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
CERT_REQS = {
    "": ssl.CERT_REQUIRED,
    "required": ssl.CERT_REQUIRED,
    "cert_required": ssl.CERT_REQUIRED,
    "none": ssl.CERT_NONE,
    "cert_none": ssl.CERT_NONE,
}


@dataclass(frozen=True)
class RedisPlace:
    """A parsed url, as `parse_place` returns it."""

    url: str = field(repr=False)  # without the parts that the fields below hold
    tls: dict[str, object] | None = None  # the arguments of a TLS connection; None: no TLS
    sentinels: tuple[tuple[str, int], ...] = ()
    master: str = ""
    sentinel_password: str | None = field(default=None, repr=False)

    def client(self, **options: Any) -> Redis:
        """A redis-py client. It sends nothing yet."""
        if not self.sentinels:
            return Redis.from_url(self.url, **(self.tls or {}), **options)
        parts = urlsplit(self.url)
        credentials = {
            "username": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
        }
        kept = {name: options[name] for name in options if name.startswith("socket_")}
        kwargs = self._sentinel_kwargs() | kept
        # redis-py has no types for these two calls.
        sentinel = Sentinel(list(self.sentinels), sentinel_kwargs=kwargs)  # type: ignore[no-untyped-call]
        made: Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
            self.master, db=int(parts.path.strip("/") or 0), **credentials, **options
        )
        return made

    def celery(self) -> dict[str, object]:
        """Celery's settings for the urls of broker and result store."""
        settings: dict[str, object] = {"broker_url": self.url, "result_backend": self.url}
        if self.tls is not None:
            settings |= {"broker_use_ssl": self.tls, "redis_backend_use_ssl": self.tls}
        if self.sentinels:
            parts = urlsplit(self.url)
            login = parts.netloc.rpartition("@")[0]
            at = f"{login}@" if login else ""
            urls = [f"sentinel://{at}{host}:{port}{parts.path}" for host, port in self.sentinels]
            settings = {"broker_url": ";".join(urls), "result_backend": ";".join(urls)}
        return settings

    def transport_options(self) -> dict[str, object]:
        """Further options of Celery's transports, for both broker and result store."""
        if not self.sentinels:
            return {}
        return {"master_name": self.master, "sentinel_kwargs": self._sentinel_kwargs()}

    def _sentinel_kwargs(self) -> dict[str, object]:
        return {"password": self.sentinel_password} if self.sentinel_password else {}


def parse_place(url: str) -> RedisPlace:
    """Parse a url. Raises ValueError, whose message holds no password."""
    parts = _split(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme not in SCHEMES:
        raise ValueError(f"allowed: {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if not parts.path.strip("/").isdigit() and parts.path.strip("/"):
        raise ValueError("the path is the number of a database, such as /0")
    tls = _tls(query)
    if parts.scheme == "rediss":
        return RedisPlace(_without(url, query), VERIFIED | tls)
    if tls:
        raise ValueError(f"{', '.join(tls)}: only rediss:// speaks TLS")
    if parts.scheme == "redis":
        return RedisPlace(url)
    master = query.pop("master", "")
    if not master:
        raise ValueError("?master=NAME is missing: what the Sentinels call the Redis")
    password = query.pop("sentinel_password", None)
    sentinels = tuple(_address(text) for text in parts.netloc.rpartition("@")[2].split(","))
    return RedisPlace(_without(url, query), None, sentinels, master, password)


def _split(url: str) -> SplitResult:
    """Split a url. Raises ValueError without urllib's message, which may repeat the password."""
    try:
        parts = urlsplit(url)
        readable = parts.scheme == "sentinel" or parts.port != 0
        if readable and "@" not in parts.path + parts.fragment:
            return parts
    except ValueError:
        pass
    raise ValueError("host and port cannot be read; a password must be percent-encoded")


def _tls(query: dict[str, str]) -> dict[str, object]:
    """The TLS arguments of a query, which are removed from it."""
    files = {name: query.pop(name) for name in TLS_FILES if name in query}
    for name, path in files.items():
        if not Path(path).is_file():
            raise ValueError(f"{name}: {path} is not a file on this machine")
    given: dict[str, object] = dict(files)
    if "ssl_cert_reqs" in query:
        word = query.pop("ssl_cert_reqs")
        if word.lower() not in CERT_REQS:
            raise ValueError(f"ssl_cert_reqs: {word} is unknown; allowed: required, none")
        given["ssl_cert_reqs"] = CERT_REQS[word.lower()]
        if given["ssl_cert_reqs"] == ssl.CERT_NONE:
            given["ssl_check_hostname"] = False
    return given


def _without(url: str, query: dict[str, str]) -> str:
    return urlunsplit(urlsplit(url)._replace(query=urlencode(query)))


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(SENTINEL_PORT)
    if not host or not port.isdigit():
        raise ValueError(f"{text!r} is not a Sentinel's address, such as host:26379")
    return host.strip("[]"), int(port)
