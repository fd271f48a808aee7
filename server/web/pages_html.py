"""Fills the templates of the screens."""

from datetime import UTC, datetime
from functools import cache

import jinja2
from fastapi import Request
from starlette.responses import HTMLResponse

from lorajob import __version__
from lorajob.reporting.html import new_environment
from lorajob.server.web.auth import Principal
from lorajob.tasks.words import corpus_name, duration

MENU = (
    ("Jobs", "/"),
    ("Compare", "/compare"),
    ("Models", "/models"),
    ("Fleet", "/fleet"),
    ("New job", "/new"),
    ("Try it", "/try"),
)


def screen(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    """A screen. `charts=True` loads Vega; `events` is where the page hears of changes
    since the revision `seen`.
    """
    who = request.scope.get("lorajob.principal")
    path = request.url.path
    common: dict[str, object] = {
        "menu": MENU if isinstance(who, Principal) else (),
        "here": "/" if path.startswith("/jobs") else path,
        "signed_in": isinstance(who, Principal) and who.csrf is not None,
        "csrf": who.csrf if isinstance(who, Principal) else None,
        "may_submit": isinstance(who, Principal) and who.role == "submit",
        "version": __version__,
        "charts": False,
        "events": None,
        "seen": "",
    }
    page = _environment().get_template(template).render(common | values)
    return HTMLResponse(page, status)


@cache
def _environment() -> jinja2.Environment:
    own = jinja2.PackageLoader("lorajob.server.web", "templates")
    reports = jinja2.PackageLoader("lorajob.reporting", "templates")
    loader = jinja2.ChoiceLoader([own, jinja2.PrefixLoader({"report": reports})])
    environment = new_environment(loader)
    environment.filters["span"] = duration
    environment.filters["corpus"] = corpus_name
    environment.filters["iso"] = _iso
    environment.filters["day"] = _day
    return environment


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _day(seconds: float) -> str:
    """A time of this server's time zone."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
