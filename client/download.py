"""Reads a file of a server, and goes on where the connection was lost."""

import time
from contextlib import ExitStack
from http.client import HTTPException, HTTPResponse

from lorajob.client.web_api import LONGEST_PAUSE, MOST_FAILURES, Query, WebApi
from lorajob.errors import ServiceError, StageError
from lorajob.storage.urls import public


class Download:
    """A file of a server, to read from its beginning to its end.

    If a server supports it, a lost connection is opened again at the byte that comes next, for two
    minutes. Raises ServiceError if the server stays unavailable, and StageError if the file is cut
    off or has changed meanwhile.
    """

    def __init__(self, api: WebApi, path: str, query: Query | None = None) -> None:
        self._api, self._path, self._query = api, path, query
        self._held = ExitStack()
        self._answer: HTTPResponse | None = None
        self._place = 0
        self._size: int | None = None  # unknown
        self._mark: str | None = None  # tells versions of the file apart; None: no resuming
        self._failures = 0

    def __enter__(self) -> "Download":
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def read(self, count: int = -1) -> bytes:
        """Some of the next bytes, at most `count`; none at the end."""
        while True:
            try:
                answer = self._answer or self._open()
                data = answer.read() if count < 0 else answer.read(count)
                if data or self._size is None or self._place >= self._size:
                    self._place += len(data)
                    self._failures = 0
                    return data
                lost = ServiceError(f"{public(self._api.url)} ended the file early")
            except (OSError, HTTPException) as error:
                lost = ServiceError(f"{public(self._api.url)} is unavailable: {error}")
            except ServiceError as error:
                lost = error
            self._pause(lost)

    def _pause(self, lost: ServiceError) -> None:
        """Close the connection and wait. Raises `lost` if there is no sense in another one."""
        self._held.close()
        self._answer = None
        if self._mark is None:
            raise StageError(f"the download was cut off: {lost}")
        self._failures += 1
        if self._failures > MOST_FAILURES:
            raise lost
        time.sleep(min(2.0 ** (self._failures - 1), LONGEST_PAUSE))

    def _open(self) -> HTTPResponse:
        """Ask for the file, or for its rest."""
        headers = {}
        if self._place and self._mark is not None:
            headers = {"Range": f"bytes={self._place}-", "If-Range": self._mark}
        opened = self._api.open("GET", self._path, self._query, headers=headers)
        answer = self._held.enter_context(opened)
        if not headers:
            length = answer.headers["Content-Length"]
            self._size = int(length) if length and length.isdigit() else None
            resumes = answer.headers["Accept-Ranges"] == "bytes" and self._size is not None
            self._mark = answer.headers["ETag"] if resumes else None
        elif answer.status != 206:
            raise StageError("the file changed on the server during the download; try again")
        self._answer = answer
        return answer
