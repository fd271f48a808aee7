"""The REST API under /api: what the command line does with jobs."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from lorajob import __version__
from lorajob.server.web.auth import API, Role
from lorajob.server.web.state import User

DESCRIPTION = """What the `lorajob` command does with jobs, over HTTP.

Send a key as a bearer token: `Authorization: Bearer KEY`. A key has a role: `view` reads, `submit`
also changes. Errors have one form: `{"error": {"message", "type", "param", "code"}}`. The status
422 and its message are what the command line says about a wrong value.
"""


class ErrorBody(BaseModel):
    """What went wrong, in one line."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """Every error of the API."""

    error: ErrorBody


class Whoami(BaseModel):
    """The server's version, and whose key the request has."""

    model_config = ConfigDict(frozen=True)

    version: str
    user: str
    role: Role = Field(description="`view` reads, `submit` also changes.")


ERRORS: dict[int | str, dict[str, object]] = {
    401: {"model": ErrorAnswer, "description": "No valid key."},
    422: {"model": ErrorAnswer, "description": "A wrong value; the message says what to do."},
    503: {"model": ErrorAnswer, "description": "Redis is unavailable."},
}

router = APIRouter(prefix=API, responses=ERRORS)


def routers() -> list[APIRouter]:
    """All parts of the API."""
    return [router]


@router.get("", tags=["service"])
def whoami(who: User) -> Whoami:
    """The server's version, and whose key the request has."""
    return Whoami(version=__version__, user=who.name, role=who.role)
