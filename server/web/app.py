"""The application of `lorajob web`: middleware, errors, login, and the parts with routes."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lorajob import __version__
from lorajob.errors import LorajobError
from lorajob.server.errors import ApiError
from lorajob.server.guard import RequestGuard
from lorajob.server.web import (
    api,
    api_corpora,
    api_glossaries,
    api_speech,
    api_texts,
    pages,
)
from lorajob.server.web.auth import (
    LOGIN,
    LOGOUT,
    MCP,
    SESSION_SECONDS,
    AccessGuard,
    is_api,
    own_path,
)
from lorajob.server.web.headers import HEADERS, NO_STORE, SecurityHeaders
from lorajob.server.web.limits import StreamLimit
from lorajob.server.web.proxies import Proxies, came_by_https
from lorajob.server.web.state import WebService

if TYPE_CHECKING:
    from lorajob.server.agents.door import AgentDoor

MOST_UPLOAD_BYTES = 1 << 30
MOST_BODY_BYTES = 4 << 20  # of a request that is not an upload
STATIC = Path(__file__).parent / "static"

# Kind of a LorajobError -> status code. All others are 500.
STATUS_OF_KIND = {
    "usage": 422,
    "corpus": 422,
    "audio": 422,
    "model": 422,
    "job": 404,
    "stage": 409,
    "record": 409,
    "damage": 409,
    "service": 503,
    "network": 503,
    "store": 503,
    "refused": 503,
    "disk": 507,
}

PARSING = "There was an error parsing the body"  # as FastAPI says it
UNREADABLE = "body: cannot be read; is it JSON in UTF-8, and not nested too deeply?"

log = logging.getLogger(__name__)


def create_web_app(
    service: WebService,
    upload_bytes: int = MOST_UPLOAD_BYTES,
    agents: bool = True,
    proxies: Sequence[str] = (),
) -> FastAPI:
    """The application. `upload_bytes` is the most of one request; `agents` adds /mcp; `proxies` are
    the addresses whose X-Forwarded-For is believed.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            if door is not None:
                await held.enter_async_context(door.running())
            yield
        service.close()

    app = FastAPI(
        title="lorajob web",
        version=__version__,
        description=api.DESCRIPTION,
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        # Their pages load scripts from other servers.
        docs_url=None,
        redoc_url=None,
    )
    app.state.web = service
    app.state.streams = StreamLimit()
    # The last one that is added sees a request first.
    app.add_middleware(AccessGuard, access=service.access, answer=_refuse)
    app.add_middleware(BodyLimits, upload_bytes=upload_bytes)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Proxies, trusted=proxies)
    _handle_errors(app)
    _add_login(app, service)
    app.include_router(api.api_router())
    app.include_router(pages.router)
    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC), "static")
    door = _add_agents(app) if agents else None
    return app


def _add_agents(app: FastAPI) -> "AgentDoor | None":
    """Serve agents at /mcp. Without the package mcp, the path says what to install."""
    try:
        from lorajob.server.agents.door import add_agents
    except ImportError as error:
        missing = error.name

        async def refuse(request: Request) -> Response:
            said = f"{missing} is not installed here; `pip install 'lorajob[mcp]'` on the server"
            return ApiError(404, said).response()

        app.router.add_route(MCP, refuse, methods=["GET", "POST"], include_in_schema=False)
        return None
    return add_agents(app)


class BodyLimits:
    """Limits the size of bodies; only paths that take uploads or glossaries take large ones."""

    def __init__(self, app: ASGIApp, upload_bytes: int) -> None:
        self._uploads = RequestGuard(app, (), upload_bytes)
        self._glossaries = RequestGuard(app, (), api_glossaries.MOST_BODY_BYTES)
        self._others = RequestGuard(app, (), MOST_BODY_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        guard = self._others
        if takes_uploads(path):
            guard = self._uploads
        elif path.startswith(api_glossaries.FOLDER):
            guard = self._glossaries
        await guard(scope, receive, send)


def takes_uploads(path: str) -> bool:
    """Whether requests to a path bring files."""
    if path.startswith(api_texts.FOLDER) or api_speech.UPLOADS.fullmatch(path):
        return True
    return path in (*pages.UPLOADS, api_corpora.UPLOAD)


def web_error(error: LorajobError) -> ApiError:
    """The answer to an error of the library: its one line, as the command line prints it."""
    status = STATUS_OF_KIND.get(error.kind, 500)
    return ApiError(status, str(error), code=error.kind, retry_after=1 if status == 503 else None)


def _answer(request: Request, error: ApiError) -> Response:
    """An error as JSON for the API, and as a page for the pages."""
    if is_api(request.scope["path"]):
        return error.response()
    response = pages.error_page(request, error)
    if error.retry_after is not None:
        response.headers["Retry-After"] = error.response().headers["Retry-After"]
    return response


def _refuse(request: Request, error: ApiError) -> Response:
    """The answer to a request that was not admitted. Only a browser gets a page."""
    if "text/html" in request.headers.get("accept", ""):
        return _answer(request, error)
    return error.response()


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return _answer(request, error)

    @app.exception_handler(LorajobError)
    async def failed(request: Request, error: LorajobError) -> Response:
        return _answer(request, web_error(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return _answer(request, _malformed(error))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        # FastAPI wraps what reading a body raised.
        if isinstance(error.__cause__, ApiError):
            return _answer(request, error.__cause__)
        said = {
            404: f"{request.scope['path']} does not exist; see /api/openapi.json",
            405: f"{request.method} is not allowed here",
        }
        detail = UNREADABLE if error.detail == PARSING else error.detail
        found = ApiError(error.status_code, said.get(error.status_code, detail))
        response = _answer(request, found)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        log.error("%s %s", request.method, request.scope["path"], exc_info=error)
        response = _answer(request, ApiError(500, "The server failed; its log says why"))
        # This answer does not pass the middleware.
        response.headers.update(HEADERS | NO_STORE)
        return response


def _add_login(app: FastAPI, service: WebService) -> None:
    @app.get("/health", tags=["service"])
    async def health() -> dict[str, str]:
        """Whether the server runs. It needs no key."""
        return {"status": "ok", "version": __version__}

    @app.post(LOGIN, include_in_schema=False)
    async def log_in(
        request: Request, password: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/"
    ) -> Response:
        address = request.client.host if request.client else ""
        session = service.access.log_in(password, address)
        if session is None:
            log.warning("A login failed, from %s", address or "?")
            return pages.login_page(request, own_path(next), failed=True)
        response = RedirectResponse(own_path(next), 303)
        response.set_cookie(
            service.access.cookie,
            session,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=came_by_https(request.scope),
        )
        return response

    @app.post(LOGOUT, include_in_schema=False)
    def log_out(request: Request) -> Response:
        service.access.log_out(request.cookies.get(service.access.cookie, ""))
        response = RedirectResponse(LOGIN, 303)
        response.delete_cookie(service.access.cookie, httponly=True, samesite="strict")
        return response


def _malformed(error: RequestValidationError) -> ApiError:
    """The first fault of a request, in one line that names its field."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        why = first["ctx"]["error"]
        said = f"body: is not JSON: {why}, at character {first['loc'][-1]}"
        return ApiError(422, said, "body", "usage")
    place = [str(it) for it in first["loc"] if it not in ("body", "query", "path")]
    name = ".".join(place) or "body"
    return ApiError(422, f"{name}: {first['msg'].removeprefix('Value error, ')}", name, "usage")
