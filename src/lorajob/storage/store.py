"""Files behind a url, such as an object store's: read, write, copy and hash them, by fsspec.

Credentials come from where the store's own library looks for them (for S3: the AWS_* variables,
~/.aws, the machine's role; AWS_ENDPOINT_URL names another server), never from a url.
"""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lorajob.errors import LorajobError, UsageError
from lorajob.storage.urls import has_login, public, public_text

CHUNK_BYTES = 8 << 20
CONNECT_SECONDS, READ_SECONDS = 10, 60
# whose errors are the store's or the network's, not a bug's
LIBRARIES = ("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs")
EXTRAS = {"s3": "s3fs", "s3a": "s3fs"}  # protocol: the package of the extra `s3`
WEB = ("http", "https")

Check = Callable[[], None]  # called between parts; raises to have a transfer given up


class StoreError(LorajobError):
    """The store of artifacts or corpora is not there or refuses."""

    kind = "store"


class DamageError(StoreError):
    """What the store holds is not what was put there."""

    kind = "damage"


class GoneError(DamageError):
    """The store has no such job, or no more."""


def unhurried() -> None:
    """The check of a transfer that nobody interrupts."""


class Store:
    """The files below one url. Methods raise StoreError where the store does not serve."""

    remote = True  # other machines reach it, too

    def __init__(self, url: str) -> None:
        self.url = checked_url(url).rstrip("/")

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        protocol = urlsplit(self.url).scheme
        options: dict[str, Any] = {"use_listings_cache": False}  # others write there, too
        if protocol in EXTRAS:
            options["session"] = _session()
            options["config_kwargs"] = {
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "retries": {"total_max_attempts": 2},  # for each of five of s3fs's own
            }
        for name in ("aiobotocore", "botocore"):  # they tell of every key that they find
            logging.getLogger(name).setLevel(logging.WARNING)
        with store_errors(self.url):
            if protocol in WEB:
                options["client_kwargs"] = {"timeout": _web_timeout()}
            fs, root = fsspec.core.url_to_fs(self.url, **options)
        return fs, root

    @property
    def fs(self) -> Any:
        return self._place[0]

    def key(self, name: str) -> str:
        """What fsspec calls the file `name`."""
        root: str = self._place[1]
        return f"{root}/{name}" if name else root

    def below(self, name: str) -> "Store":
        """The store of a folder in this one."""
        return Store(f"{self.url}/{name}")

    def names(self, folder: str = "") -> dict[str, int]:
        """Every file below `folder`, by its name in this store, and its bytes."""
        with store_errors(self.url):
            try:
                found = self.fs.find(self.key(folder), detail=True)
            except FileNotFoundError:
                return {}
        start, below = len(self.key("")) + 1, f"{self.key(folder)}/"
        return {  # some stores list an empty folder as itself
            key[start:]: info["size"] for key, info in found.items() if key.startswith(below)
        }

    def folders(self) -> list[str]:
        """The names of the folders right below."""
        with store_errors(self.url):
            try:
                listed = self.fs.ls(self.key(""), detail=True)
            except FileNotFoundError:
                return []
        names = [entry["name"] for entry in listed if entry["type"] == "directory"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def info(self, name: str = "") -> dict[str, Any] | None:
        """fsspec's description of a file: `size`, and what tells its version; None without it."""
        with store_errors(self.url):
            try:
                info: dict[str, Any] = self.fs.info(self.key(name))
            except FileNotFoundError as error:
                _raise_if_away(error)
                return None
        return info

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        with store_errors(self.url):
            try:
                data: bytes = self.fs.cat_file(self.key(name))
            except FileNotFoundError:
                return None
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all."""
        with store_errors(self.url):
            self._make_parent(name)
            self.fs.pipe_file(self.key(name), data)

    def write_json(self, name: str, value: object) -> None:
        """Write a small file of JSON, whole or not at all."""
        text = json.dumps(value, ensure_ascii=False, indent=2)
        self.write(name, f"{text}\n".encode())

    def upload(self, path: Path, name: str) -> None:
        """Copy a file to the store, whole or not at all. Raises FileNotFoundError for a file that
        is gone here.
        """
        path.stat()
        with store_errors(self.url):
            self._make_parent(name)
            self.fs.put_file(str(path), self.key(name))

    def download(self, name: str, path: Path, check: Check = unhurried) -> str:
        """Copy a file here, whole or not at all; returns its SHA-256."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        hashed = hashlib.sha256()
        try:
            with part.open("wb") as file:
                for chunk in self._chunks(name, check):
                    hashed.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return hashed.hexdigest()

    def hash(self, name: str, check: Check = unhurried) -> str:
        """The SHA-256 of a file, read back from the store."""
        hashed = hashlib.sha256()
        for chunk in self._chunks(name, check):
            hashed.update(chunk)
        return hashed.hexdigest()

    def remove(self, folder: str = "") -> None:
        """Remove a folder and all below it, if there is one."""
        with store_errors(self.url):
            try:
                self.fs.rm(self.key(folder), recursive=True)
            except FileNotFoundError:
                return

    def _chunks(self, name: str, check: Check) -> Iterator[bytes]:
        with store_errors(self.url):
            try:
                file = self.fs.open(self.key(name), "rb", block_size=CHUNK_BYTES)
            except FileNotFoundError as error:
                _raise_if_away(error)
                raise DamageError(f"{public(self.url)}/{name} is gone") from None
        with file:
            while True:
                check()
                with store_errors(self.url):
                    chunk = file.read(CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk

    def _make_parent(self, name: str) -> None:
        """Object stores have no folders; a file system wants them."""
        if "file" in _protocols(self.fs):
            self.fs.makedirs(self.key(name).rpartition("/")[0], exist_ok=True)


def checked_url(url: str) -> str:
    """The url itself. Raises UsageError for what is none or names no server, bucket or folder, for
    one with a password in it, or whose package lacks.
    """
    if has_login(url):
        raise UsageError(
            f"{public(url)}: a url must hold no credentials (an @ in a path is %40); set the AWS_*"
            " variables"
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{public(url)} is no url: {error}") from None
    if parts.scheme in WEB and not parts.hostname:
        raise UsageError(f"{public(url)} is no url: it names no server")
    package = EXTRAS.get(parts.scheme)
    if not parts.netloc and (package or not parts.path.strip("/")):
        raise UsageError(f"{public(url)}: names no bucket, as s3://bucket/jobs does")
    if package and importlib.util.find_spec(package) is None:
        raise UsageError(
            f"{public(url)}: {package} is not installed; `pip install 'lorajob[s3]'` brings it"
        )
    return url


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Turn what a store or the way to it refuses into one StoreError; FileNotFoundError inside is
    the caller's to catch first.
    """
    try:
        yield
    except LorajobError:
        raise
    except ImportError as error:
        raise UsageError(public_text(f"{url}: {error}", url)) from None
    except ValueError as error:
        if "rotocol" not in str(error) and not _of_library(error):
            raise
        raise UsageError(public_text(f"{url} is no url: {error}", url)) from None
    except OSError as error:
        raise StoreError(_refusal(url, error)) from error
    except Exception as error:  # those of the stores' libraries have no class in common
        if not _of_library(error):
            raise
        raise StoreError(_refusal(url, error)) from error


@cache
def _session() -> Any:
    """A session that sends what it writes without asking first: no timeout covers the wait for
    `100 Continue`, and a server that hangs would hold its writer for ever.
    """
    from aiobotocore.session import AioSession
    from botocore.handlers import add_expect_header

    session = AioSession()
    session.unregister("before-call.s3", add_expect_header)
    return session


def _web_timeout() -> Any:
    """Of each read, as for the other stores: aiohttp's own is of a whole answer, and five minutes
    are too few for gigabytes.
    """
    from fsspec.implementations.http import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)


def _raise_if_away(error: FileNotFoundError) -> None:
    """Raise what lies behind it, where a web server did not say that there is no such file: fsspec
    takes every answer for that, and none at all.
    """
    cause = error.__cause__
    gone = isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410)
    web = type(cause).__module__.partition(".")[0] == "aiohttp" or isinstance(cause, OSError)
    if cause is not None and web and not gone:
        raise cause


def _of_library(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in LIBRARIES


def _refusal(url: str, error: Exception) -> str:
    said = public_text(str(error), url)  # before its spaces, of which the url may have some, change
    return f"{public(url)} does not serve: {' '.join(said.split()) or type(error).__name__}"


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
