"""Requests of the tools to the REST API of `lorajob web`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from mcp.server.mcpserver.exceptions import ToolError

from lorajob.errors import UsageError
from lorajob.storage.urls import local_path, public

CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 3600.0  # a check of a whole corpus, the transcript of a long recording
ROOT = "http://lorajob/api"  # of an API in this process
NO_KEY = 401


@dataclass(frozen=True)
class Backend:
    """An API that tools send requests to."""

    http: httpx2.AsyncClient
    shares_files: bool
    """Whether a path means the same file for the agent and for the API."""
    forwards_key: bool = False
    """Whether each request has the key of the agent's own request."""

    @property
    def url(self) -> str:
        """The url of the API without secrets; "" for one in this process."""
        url = str(self.http.base_url).rstrip("/")
        return "" if url == ROOT else public(url)


@dataclass(frozen=True)
class Rest:
    """The API as one agent may use it. Every method raises ToolError with the API's own line."""

    backend: Backend
    key: str | None = None
    """The header Authorization, in place of that of `backend`."""

    async def get(self, path: str, **query: object) -> Any:
        """The JSON of a GET request. None in the query is left out."""
        return await self._ask("GET", path, query)

    async def post(self, path: str, body: object = None, **query: object) -> Any:
        """The JSON of a POST request."""
        return await self._ask("POST", path, query, json={} if body is None else body)

    async def patch(self, path: str, body: object) -> Any:
        """The JSON of a PATCH request."""
        return await self._ask("PATCH", path, {}, json=body)

    async def send(self, path: str, name: str, audio: bytes | Path) -> Any:
        """The JSON of a POST request with a file."""
        if isinstance(audio, bytes):
            return await self._ask("POST", path, {}, files={"file": (name, audio)})
        try:
            with audio.open("rb") as file:
                return await self._ask("POST", path, {}, files={"file": (name, file)})
        except OSError as error:
            raise ToolError(f"audio_path: {str(audio)!r}: {error.strerror}") from None

    async def _ask(self, method: str, path: str, query: dict[str, object], **more: Any) -> Any:
        asked = {name: _word(value) for name, value in query.items() if value is not None}
        headers = {} if self.key is None else {"Authorization": self.key}
        try:
            answer = await self.backend.http.request(
                method, self._url(path), params=asked, headers=headers, **more
            )
        except httpx2.HTTPError as error:
            why = str(error) or type(error).__name__
            place = self.backend.url or "the API"
            raise ToolError(f"{place} is unavailable: {why}; check LORAJOB_URL") from None
        return self._read(answer)

    def _url(self, path: str) -> str:
        return f"{str(self.backend.http.base_url).rstrip('/')}{path}"

    def _read(self, answer: httpx2.Response) -> Any:
        place = self.backend.url or "the API"
        try:
            found = answer.json()
            if answer.is_success:
                return found
            said = str(found["error"]["message"])
        except (ValueError, LookupError, TypeError):
            raise ToolError(
                f"{place} answers {answer.status_code} without JSON; is it a `lorajob web`?"
            ) from None
        if answer.status_code == NO_KEY and self.backend.url:
            said = f"{place}: {said}; set LORAJOB_API_KEY"
        raise ToolError(said)


def shared_place(place: str | None, shares_files: bool) -> str | None:
    """A path or url as the API takes it: relative paths are those of this process's folder."""
    if place is None or not shares_files:
        return place
    path = local_path(place)
    if not place or path is None:
        return place
    try:
        return str(path.expanduser().absolute())
    # An unknown ~user or a null byte: the API says what is wrong.
    except (RuntimeError, ValueError, OSError):
        return place


def shared_base(base: str | None, shares_files: bool) -> str | None:
    """A base model as the API takes it: a folder here, or the id of a model on the Hub."""
    try:
        here = base is not None and shares_files and Path(base).expanduser().is_dir()
    except (RuntimeError, ValueError, OSError) as error:
        raise ToolError(str(UsageError(f"base_model: not a valid path: {error}"))) from None
    return shared_place(base, shares_files) if here else base


def _word(value: object) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
