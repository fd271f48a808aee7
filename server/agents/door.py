"""/mcp of `lorajob web`: the tools over streamable HTTP, under the keys of the server.

A request is admitted by its key. Each tool then sends its requests to the API of the same process
with that key, so that its role decides, and its name stands in the audit log.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx2
from fastapi import FastAPI
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lorajob.server.agents.rest import ANSWER_SECONDS, CONNECT_SECONDS, ROOT, Backend
from lorajob.server.agents.tools import make_server
from lorajob.server.errors import ApiError
from lorajob.server.web.auth import MCP, Principal

MOST_SESSIONS = 1000
TIMEOUT = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)


class AgentDoor:
    """The ASGI application at /mcp."""

    def __init__(self, app: ASGIApp) -> None:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx2.AsyncClient(transport=transport, base_url=ROOT, timeout=TIMEOUT)
        server = make_server(Backend(self._http, shares_files=False, forwards_key=True))
        # `host` names no loopback address, because a proxy may pass on any Host: the key admits.
        server.streamable_http_app(streamable_http_path=MCP, host="", max_sessions=MOST_SESSIONS)
        self._manager: StreamableHTTPSessionManager = server.session_manager

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sessions live while the block runs."""
        async with self._http, self._manager.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, which AccessGuard has admitted."""
        try:
            check_agent(Request(scope))
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._manager.handle_request(scope, receive, send)


def check_agent(request: Request) -> None:
    """Raise ApiError unless a program with a key sent the request: a page of a browser has none,
    also if its name was bound to this server's address.
    """
    who = request.scope.get("lorajob.principal")
    if not isinstance(who, Principal) or who.csrf is not None:
        raise ApiError(401, "Send a key as a bearer token", code="invalid_api_key")
    origin = request.headers.get("origin")
    if origin and not _same_site(origin, request.headers.get("host")):
        raise ApiError(403, "Pages of other sites cannot use /mcp", code="origin")


def _same_site(origin: str, host: str | None) -> bool:
    try:
        return urlsplit(origin).netloc == host
    # Such as http://[
    except ValueError:
        return False


def add_agents(app: FastAPI) -> AgentDoor:
    """Serve agents at /mcp of this application. `running` is a part of its lifespan."""
    door = AgentDoor(app)
    app.router.routes.append(Route(MCP, door, include_in_schema=False))
    return door
