"""Sends requests to the REST API of a `lorajob web`, and raises the errors that it states."""

import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any, BinaryIO, cast
from urllib.parse import quote, urlencode, urlsplit

from lorajob import errors
from lorajob.errors import FULL, LorajobError, ServiceError, UsageError
from lorajob.storage.urls import public

TIMEOUT_SECONDS = 60.0  # for the next bytes of an answer
LONG_SECONDS = 1800.0  # the same, where the server reads or deletes files before it answers
MOST_FAILURES = 20  # of a connection in succession, with pauses of two minutes in all
LONGEST_PAUSE = 8.0  # seconds
Query = Mapping[str, object]


class AnswerError(ServiceError):
    """A server answers with an error that has no class of its own."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (408, 409, 429) or self.status >= 500


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would send the key to another server."""

    def redirect_request(self, *args: object, **named: object) -> None:
        return None


class WebApi:
    """Sends requests to the REST API of one server. Raises the errors that the server states."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = _checked_url(url.strip())
        self._key = _checked_key((key or "").strip())
        self._opener = urllib.request.build_opener(_NoRedirect())

    @property
    def headers(self) -> dict[str, str]:
        """The headers that hold the key."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def get(self, path: str, query: Query | None = None, seconds: float = TIMEOUT_SECONDS) -> Any:
        """The JSON of a GET request. `seconds` is the longest time without a byte of the answer."""
        with self.open("GET", path, query, seconds=seconds) as answer:
            return self._json(answer)

    def post(
        self,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        seconds: float = TIMEOUT_SECONDS,
        **query: object,
    ) -> Any:
        """The JSON of a POST request."""
        given = {} if body is None else body
        with self.open("POST", path, query, given, seconds=seconds) as answer:
            return self._json(answer)

    def send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The JSON of a request of another method."""
        with self.open(method, path, None, body) as answer:
            return self._json(answer)

    def send_data(self, path: str, data: bytes, query: Query, seconds: float) -> Any:
        """The JSON of a POST request whose body is data."""
        with self.open("POST", path, query, data, seconds=seconds) as answer:
            return self._json(answer)

    def send_file(self, method: str, path: str, file: BinaryIO) -> Any:
        """The JSON of a request whose body is a file of this machine."""
        with self.open(method, path, None, file, seconds=LONG_SECONDS) as answer:
            return self._json(answer)

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Mapping[str, object] | bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = TIMEOUT_SECONDS,
    ) -> Iterator[HTTPResponse]:
        """An answer to read from. Raises ServiceError if the server is unavailable."""
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        words = f"?{urlencode(asked, doseq=True)}" if asked else ""
        request = urllib.request.Request(f"{self.url}/api{path}{words}", method=method)
        for name, value in (self.headers | dict(headers or {})).items():
            request.add_header(name, value)
        if body is not None:
            is_json = isinstance(body, Mapping)
            request.data = _encoded(body) if isinstance(body, Mapping) else body
            kind = "application/json" if is_json else "application/octet-stream"
            request.add_header("Content-Type", kind)
            if not isinstance(body, Mapping | bytes):
                request.add_header("Content-Length", str(os.fstat(body.fileno()).st_size))
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            raise self._stated(error) from None
        except (OSError, HTTPException) as error:
            # A file of this machine, which what was read is written to.
            if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
                raise
            why = getattr(error, "reason", None) or error
            raise ServiceError(f"{public(self.url)} is unavailable: {why}") from None

    def _json(self, answer: HTTPResponse) -> Any:
        # A proxy that asks for a login of its own answers with a page.
        try:
            return json.load(answer)
        except ValueError:
            said = f"{public(self.url)} does not answer in JSON; is it a `lorajob web`?"
            raise AnswerError(said, answer.status) from None

    def _stated(self, error: urllib.error.HTTPError) -> LorajobError:
        """The error of an answer, of the class that the server raised."""
        try:
            said = json.loads(error.read(1 << 20))["error"]
            message, code = str(said["message"]), said["code"]
        except (ValueError, LookupError, TypeError, OSError, HTTPException):
            why = "is it a `lorajob web`?"
            if error.code == 413:
                why = (
                    "a proxy refuses bodies of this size, and must let through 32 MiB and more "
                    "(nginx: client_max_body_size 64m)"
                )
            return AnswerError(f"{public(self.url)} answers {error.code}; {why}", error.code)
        if error.code == 401:
            said = f"{public(self.url)}: {message}; set LORAJOB_API_KEY"
            return AnswerError(said, error.code)
        if error.code in (403, 422) and code != "corpus":
            return UsageError(message)
        found = error_of(code, message)
        return AnswerError(message, error.code) if type(found) is ServiceError else found


def _encoded(body: Mapping[str, object]) -> bytes:
    """A body as JSON. Raises UsageError for settings that JSON cannot hold."""
    try:
        # YAML has dates, which no setting takes: the server says so.
        return json.dumps(body, default=str).encode()
    # A date as a key, a mapping that holds itself.
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the settings cannot be sent as JSON: {error}") from None


def _checked_url(url: str) -> str:
    """The url without a slash at its end. Raises UsageError, which shows no secret."""
    try:
        found = urlsplit(url)
        host, _ = found.hostname or "", found.port
        host.encode("idna")
        known = found.scheme in ("http", "https") and bool(host)
    except ValueError:
        found, known = None, False
    plain = not any(letter <= " " or letter == "\x7f" for letter in url)
    if found is None or not known or not plain or found.query or found.fragment:
        raise UsageError(f"url: {public(url)!r} is not a url such as http://host:8080")
    if "@" in found.netloc:
        said = "holds a login; the key is given in LORAJOB_API_KEY, or as `key`"
        raise UsageError(f"url: {public(url)!r} {said}")
    return url.rstrip("/")


def _checked_key(key: str) -> str | None:
    """The key. Raises UsageError, which does not show it, for what no header may hold."""
    if not all("!" <= letter <= "~" for letter in key):
        raise UsageError(
            "LORAJOB_API_KEY: has a character that is not allowed in a key, such as a space, a line"
            " break or a letter that is not ASCII"
        )
    return key or None


def job_path(job: str) -> str:
    """`/jobs/JOB`, for any name of a job."""
    return f"/jobs/{quote(job, safe='@')}"


def events(answer: HTTPResponse) -> Iterator[tuple[str, str | None, dict[str, object]]]:
    """(event, id, data) of a stream of server-sent events."""
    fields: dict[str, str] = {}
    for line in io.TextIOWrapper(cast("Any", answer), "utf-8", newline="\n"):
        name, colon, value = line.rstrip("\n").partition(": ")
        if colon and name:
            fields[name] = value
        elif not line.strip() and "data" in fields:
            yield fields.get("event", ""), fields.get("id"), json.loads(fields["data"])
            fields = {}


def error_of(kind: object, message: str) -> LorajobError:
    """The error of the class that a server raised, by its kind."""
    classes = [it for it in vars(errors).values() if isinstance(it, type)]
    known = {it.kind: it for it in classes if issubclass(it, LorajobError)}
    return known.get(str(kind), ServiceError)(message)
