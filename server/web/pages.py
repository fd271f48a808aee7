"""The screens of `lorajob web`, as HTML. Each screen is a file pages_*."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, Response

from lorajob.reporting.html import vega_javascript
from lorajob.server.errors import ApiError
from lorajob.server.web import (
    pages_compare,
    pages_fleet,
    pages_job,
    pages_jobs,
    pages_live,
    pages_models,
    pages_new,
    pages_try,
)
from lorajob.server.web.auth import LOGIN, own_path
from lorajob.server.web.pages_html import screen

UPLOADS: tuple[str, ...] = (pages_try.HEAR,)  # paths that take large bodies
DAY_SECONDS = 86400
TITLES = {
    401: "Log in first",
    403: "Not allowed",
    404: "Not found",
    409: "Not yet",
    422: "That does not work",
}
TITLES |= {503: "The service does not answer"}

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
for part in (
    pages_jobs,
    pages_job,
    pages_live,
    pages_compare,
    pages_models,
    pages_fleet,
    pages_new,
    pages_try,
):
    router.include_router(part.router)


@router.get("/static/vega.js")
def vega() -> Response:
    """Vega, Vega-Lite and vega-embed."""
    headers = {"Cache-Control": f"max-age={DAY_SECONDS}"}
    return Response(vega_javascript(), media_type="text/javascript", headers=headers)


@router.get(LOGIN)
def login(request: Request, following: Annotated[str, Query(alias="next")] = "/") -> Response:
    """The form for the password."""
    return login_page(request, own_path(following))


def login_page(request: Request, following: str, failed: bool = False) -> Response:
    """The form for the password. `following` is the page after the login."""
    return screen(request, "login.html", 401 if failed else 200, following=following, failed=failed)


def error_page(request: Request, error: ApiError) -> Response:
    """A page that says what went wrong."""
    title = TITLES.get(error.status, "Something went wrong")
    return screen(request, "problem.html", error.status, title=title, message=error.message)
