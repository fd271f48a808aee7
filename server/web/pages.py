"""The screens of `lorajob web`."""

import html

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from lorajob.server.errors import ApiError
from lorajob.server.web.auth import LOGIN, LOGOUT, own_path
from lorajob.server.web.state import User

UPLOADS: tuple[str, ...] = ()  # paths that take large bodies

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/")
def index(who: User) -> str:
    """The first page."""
    form = (
        f'<form method="post" action="{LOGOUT}">'
        f'<input type="hidden" name="csrf_token" value="{html.escape(who.csrf or "")}">'
        "<button>Log out</button></form>"
    )
    return _page("lorajob", f"<p>Logged in as {html.escape(who.name)} ({who.role}).</p>{form}")


@router.get(LOGIN)
def login(request: Request, next: str = "/") -> Response:
    """The form for the password."""
    return login_page(request, own_path(next))


def login_page(request: Request, following: str, failed: bool = False) -> Response:
    """The form for the password. `following` is the page after the login."""
    said = '<p role="alert">This password or key is wrong.</p>' if failed else ""
    form = (
        f'<form method="post" action="{LOGIN}">'
        f'<input type="hidden" name="next" value="{html.escape(following)}">'
        '<label>Password or key <input type="password" name="password" autofocus></label>'
        "<button>Log in</button></form>"
    )
    return HTMLResponse(_page("Log in", said + form), 401 if failed else 200)


def error_page(request: Request, error: ApiError) -> Response:
    """A page that says what went wrong."""
    return HTMLResponse(_page("Error", f"<p>{html.escape(error.message)}</p>"), error.status)


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{title} - lorajob</title><main><h1>{title}</h1>{body}</main>"
    )
