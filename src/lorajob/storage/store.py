"""Reads, writes, copies and hashes files behind a url, for example in an object store, by fsspec.

Credentials come from where the store's library looks for them, never from a url. For S3 these are
the AWS_* variables, ~/.aws and the machine's role. AWS_ENDPOINT_URL names another server.
"""

import hashlib
import importlib.util
import json
import logging
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from lorajob.errors import LorajobError, SetupError, UsageError
from lorajob.storage.urls import has_login, public, public_text

CHUNK_BYTES = 8 << 20
CONNECT_SECONDS, READ_SECONDS = 10, 60
# Errors of these libraries mean that the store or the network failed. They are not bugs.
LIBRARIES = ("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs")
REFUSALS = (401, 403, 407)  # HTTP
# Names of botocore's errors
NO_TRUST = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "TokenRetrievalError",
    "ProfileNotFound",
    "SSLError",
)
EXTRAS = {"s3": "s3fs", "s3a": "s3fs"}  # protocol -> package, which is in the extra `s3`
WEB = ("http", "https")

Check = Callable[[], None]  # called between parts of a transfer; it raises to end the transfer


class StoreError(LorajobError):
    """The store of artifacts or corpora is unavailable or refuses the request."""

    kind = "store"


class RefusedError(StoreError):
    """The store does not accept this machine's credentials, or this machine not its certificate."""

    kind = "refused"


class DamageError(StoreError):
    """A file in the store is missing or differs from what was uploaded."""

    kind = "damage"


class GoneError(DamageError):
    """The store does not have this job, or no longer has it."""


def unhurried() -> None:
    """The check of a transfer that is never interrupted."""


class Store:
    """The files below one url. Methods raise StoreError if the store is unavailable."""

    remote = True  # other machines can reach it

    def __init__(self, url: str) -> None:
        self.url = checked_url(url).rstrip("/")

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        protocol = urlsplit(self.url).scheme
        # No cache of listings, because other machines write to the store.
        options: dict[str, object] = {"use_listings_cache": False}
        if protocol in EXTRAS:
            options["session"] = _session()
            options["config_kwargs"] = {
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                # For each of the five attempts of s3fs itself.
                "retries": {"total_max_attempts": 2},
            }
        # At level INFO these libraries log each time that they find credentials.
        for name in ("aiobotocore", "botocore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with store_errors(self.url):
            if protocol in WEB or "::" in self.url:
                from lorajob.storage.guard import guarded_client

                web = {"client_kwargs": {"timeout": _web_timeout()}, "get_client": guarded_client}
                # The links of a chained url take their options by protocol.
                options |= web if protocol in WEB else dict.fromkeys(WEB, web)
            fs, root = fsspec.core.url_to_fs(self.url, **options)
        return fs, root

    @property
    def fs(self) -> Any:
        return self._place[0]

    def key(self, name: str) -> str:
        """The name of the file `name` in fsspec."""
        root: str = self._place[1]
        return f"{root}/{name}" if name else root

    def below(self, name: str) -> "Store":
        """The store of a folder in this one."""
        return Store(f"{self.url}/{name}")

    def names(self, folder: str = "") -> dict[str, int]:
        """Name in this store -> bytes, for each file below `folder`."""
        with store_errors(self.url):
            try:
                found = self.fs.find(self.key(folder), detail=True)
            except FileNotFoundError:
                return {}
        start, below = len(self.key("")) + 1, f"{self.key(folder)}/"
        # The filter is needed because some stores list an empty folder as itself.
        return {key[start:]: info["size"] for key, info in found.items() if key.startswith(below)}

    def folders(self) -> list[str]:
        """The names of the folders directly below."""
        with store_errors(self.url):
            try:
                listed = self.fs.ls(self.key(""), detail=True)
            except FileNotFoundError:
                return []
        names = [entry["name"] for entry in listed if entry["type"] == "directory"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def info(self, name: str = "") -> Mapping[str, object] | None:
        """fsspec's description of a file, with `size` and its version; None if it is missing."""
        with store_errors(self.url):
            try:
                info: Mapping[str, object] = self.fs.info(self.key(name))
            except FileNotFoundError as error:
                _raise_if_away(error)
                return None
        return info

    def read(self, name: str) -> bytes | None:
        """A small file; None if it is missing."""
        with store_errors(self.url):
            try:
                data: bytes = self.fs.cat_file(self.key(name))
            except FileNotFoundError:
                return None
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a small file atomically."""
        with store_errors(self.url):
            self._make_parent(name)
            self.fs.pipe_file(self.key(name), data)

    def write_json(self, name: str, value: object) -> None:
        """Write a small file of JSON atomically."""
        text = json.dumps(value, ensure_ascii=False, indent=2)
        self.write(name, f"{text}\n".encode())

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file to the store atomically.

        Raises FileNotFoundError if the local file is missing.
        """
        path.stat()
        with store_errors(self.url):
            self._make_parent(name)
            self.fs.put_file(str(path), self.key(name))

    def copy(self, name: str, target: str) -> bool:
        """Have the store copy a file of its own. Returns whether it could."""
        with store_errors(self.url):
            try:
                self._make_parent(target)
                self.fs.cp_file(self.key(name), self.key(target))
            except (FileNotFoundError, NotImplementedError):
                return False
        return True

    def download(self, name: str, path: Path, check: Check = unhurried) -> str:
        """Copy a file to this machine atomically. Returns its SHA-256."""
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
        """Remove a folder and everything below it, if it exists."""
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
                raise DamageError(f"{public(self.url)}/{name} is missing") from None
        with file:
            yield from read_chunks(self.url, file, CHUNK_BYTES, check)

    def _make_parent(self, name: str) -> None:
        """Make the parent folder on a file system. Object stores have no folders."""
        if "file" in _protocols(self.fs):
            self.fs.makedirs(self.key(name).rpartition("/")[0], exist_ok=True)


def checked_url(url: str) -> str:
    """Return the url if it is valid.

    Raises UsageError if it is malformed, names no server, bucket or folder, contains a password, or
    needs a package that is not installed.
    """
    if has_login(url):
        raise UsageError(
            f"{public(url)}: a url must hold no credentials (an @ in a path is %40); set the AWS_*"
            " variables"
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{public(url)} is not a URL: {error}") from None
    if parts.scheme in WEB and not parts.hostname:
        raise UsageError(f"{public(url)} is not a URL: it names no server")
    package = EXTRAS.get(parts.scheme)
    if not parts.netloc and (package or not parts.path.strip("/")):
        raise UsageError(f"{public(url)}: names no bucket, as s3://bucket/jobs does")
    if package and importlib.util.find_spec(package) is None:
        raise SetupError(
            f"{public(url)}: {package} is not installed; `pip install 'lorajob[s3]'` installs it"
        )
    return url


def read_chunks(url: str, file: IO[bytes], size: int, check: Check) -> Iterator[bytes]:
    """The rest of a file of the store at `url`, `size` bytes at once. Each calls `check` first."""
    while True:
        check()
        with store_errors(url):
            chunk = file.read(size)
        if not chunk:
            return
        yield chunk


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Turn errors of a store or the network into StoreError.

    Errors of a malformed url or a missing package become UsageError. The caller must catch
    FileNotFoundError itself, inside the block.
    """
    try:
        yield
    except LorajobError:
        raise
    except ImportError as error:
        raise SetupError(public_text(f"{url}: {error}", url)) from None
    except ssl.SSLError as error:  # also a ValueError, if a certificate is not trusted
        raise _store_error(url, error) from error
    except ValueError as error:
        if "rotocol" not in str(error) and not _of_library(error):
            raise
        raise UsageError(public_text(f"{url} is not a URL: {error}", url)) from None
    except OSError as error:
        raise _store_error(url, error) from error
    # The exceptions of the stores' libraries have no common base class.
    except Exception as error:
        if not _of_library(error):
            raise
        raise _store_error(url, error) from error


@cache
def _session() -> Any:
    """A session that writes without waiting for `100 Continue`.

    No timeout covers that wait, so a server that hangs would block the writer for ever.
    """
    from aiobotocore.session import AioSession
    from botocore.handlers import add_expect_header

    session = AioSession()
    session.unregister("before-call.s3", add_expect_header)
    return session


def _web_timeout() -> Any:
    """A timeout for each read, as for the other stores.

    aiohttp's default is five minutes for the whole response, which is too short for gigabytes.
    """
    from fsspec.implementations.http import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)


def _raise_if_away(error: FileNotFoundError) -> None:
    """Raise the cause of a FileNotFoundError unless the web server said that the file is missing.

    fsspec raises FileNotFoundError for every failed response, and also for no response.
    """
    if isinstance(error.__cause__, LorajobError):
        raise error.__cause__  # the address is refused
    cause = error.__cause__
    gone = isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410)
    web = type(cause).__module__.partition(".")[0] == "aiohttp" or isinstance(cause, OSError)
    if cause is not None and web and not gone:
        raise cause


def _of_library(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in LIBRARIES


def _store_error(url: str, error: Exception) -> StoreError:
    refused = (
        isinstance(error, PermissionError | ssl.SSLCertVerificationError)
        or getattr(error, "status", None) in REFUSALS
        or type(error).__name__ in NO_TRUST
    )
    return (RefusedError if refused else StoreError)(_refusal(url, error))


def _refusal(url: str, error: Exception) -> str:
    # Hide secrets before the spaces change, because the url may contain spaces.
    said = public_text(str(error), url)
    return f"{public(url)} is unavailable: {' '.join(said.split()) or type(error).__name__}"


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
