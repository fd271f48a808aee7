"""The REST API under /api: what the command line does with jobs."""

from fastapi import APIRouter

from lorajob import __version__
from lorajob.server.web import (
    api_corpora,
    api_files,
    api_fleet,
    api_glossaries,
    api_jobs,
    api_models,
    api_results,
    api_speech,
    api_texts,
    api_upkeep,
)
from lorajob.server.web.auth import API
from lorajob.server.web.models import ErrorAnswer, Whoami
from lorajob.server.web.state import User

DESCRIPTION = """What the `lorajob` command does with jobs, over HTTP.

Send a key as a bearer token: `Authorization: Bearer KEY`. A key has a role: `view` reads, `submit`
also changes. Errors have one form: `{"error": {"message", "type", "param", "code"}}`. The status
422 and its message are what the command line says about a wrong value.
"""
ERRORS: dict[int | str, dict[str, object]] = {
    401: {"model": ErrorAnswer, "description": "No valid key"},
    403: {"model": ErrorAnswer, "description": "The key may only view"},
    404: {"model": ErrorAnswer, "description": "No such job, batch or model"},
    409: {"model": ErrorAnswer, "description": "The stage has not finished yet"},
    422: {"model": ErrorAnswer, "description": "A wrong value; the message says what to do"},
    503: {"model": ErrorAnswer, "description": "Redis or the store is unavailable"},
}


def api_router() -> APIRouter:
    """All routes of the API."""
    router = APIRouter(prefix=API, responses=ERRORS)
    router.add_api_route("", whoami, methods=["GET"], tags=["service"])
    for part in (
        api_jobs,
        api_results,
        api_files,
        api_models,
        api_glossaries,
        api_texts,
        api_speech,
        api_corpora,
        api_upkeep,
        api_fleet,
    ):
        router.include_router(part.router)
    return router


def whoami(who: User) -> Whoami:
    """The server's version, and whose key the request has."""
    return Whoami(version=__version__, user=who.name, role=who.role)
