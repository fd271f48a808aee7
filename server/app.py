"""The FastAPI application of `lorajob serve`: routes, and errors in OpenAI's shape."""

import logging
from collections.abc import Sequence
from typing import Literal

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lorajob import __version__
from lorajob.errors import LorajobError
from lorajob.server import speech
from lorajob.server.errors import ApiError, api_error
from lorajob.server.formats import FORMATS
from lorajob.server.forms import MOST_TERMS
from lorajob.server.guard import RequestGuard
from lorajob.server.service import SpeechService
from lorajob.serving.models import ServedModel

log = logging.getLogger(__name__)


def create_app(service: SpeechService, keys: Sequence[str]) -> FastAPI:
    """The application. Requests need one of `keys`, unless `keys` is empty."""
    app = FastAPI(
        title="lorajob serve",
        version=__version__,
        description="Speech to text with tuned Whisper models, in OpenAI's interface.",
        # Their pages load scripts from other servers.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(
        RequestGuard,
        keys=keys,
        body_bytes=service.limits.body_bytes,
        a_minute=service.limits.a_minute,
    )
    _handle_errors(app)
    _add_speech(app)
    _add_models(app)
    _add_operation(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(LorajobError)
    async def failed(request: Request, error: LorajobError) -> Response:
        return api_error(error).response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        said = {
            404: f"{request.url.path} does not exist; see /openapi.json",
            405: f"{request.method} is not allowed here",
        }
        response = ApiError(error.status_code, said.get(error.status_code, error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return ApiError(500, "The server failed; its log says why").response()


def _add_speech(app: FastAPI) -> None:
    @app.post("/v1/audio/transcriptions", openapi_extra=_described("transcribe"))
    async def transcriptions(request: Request) -> Response:
        """Transcribe an audio file."""
        return await speech.answer(request, "transcribe")

    @app.post("/v1/audio/translations", openapi_extra=_described("translate"))
    async def translations(request: Request) -> Response:
        """Translate the speech of an audio file to English."""
        return await speech.answer(request, "translate")


def _add_models(app: FastAPI) -> None:
    service: SpeechService = app.state.service

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        """The models that requests can name."""
        found = await service.catalogue.listed()
        return {"object": "list", "data": [_model(it.name, it) for it in found]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, object]:
        """One model."""
        return _model(name, await service.catalogue.find(name))


def _model(name: str, model: ServedModel) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "lorajob",
        "language": model.language,
    }


def _add_operation(app: FastAPI) -> None:
    service: SpeechService = app.state.service

    @app.get("/health")
    async def health() -> dict[str, object]:
        """Whether the server runs. It needs no key."""
        return {"status": "ok", "version": __version__, "open_requests": service.open_requests}

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        body, kind = service.metrics.encode(
            request.headers.get("accept", ""),
            service.open_requests,
            len(service.pool.loaded()),
            service.pool.starts,
            service.pool.crashes,
        )
        return Response(body, media_type=kind)


def _described(task: Literal["transcribe", "translate"]) -> dict[str, object]:
    """The form and answers of an endpoint, for /openapi.json."""
    text = {"type": "string"}
    fields: dict[str, object] = {
        "file": {"type": "string", "format": "binary"},
        "model": text | {"description": "A language, a job, a base model, or auto."},
        "prompt": text | {"description": "Text that may have come before."},
        "response_format": text | {"enum": list(FORMATS), "default": "json"},
        "temperature": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
    }
    if task == "transcribe":
        units = {"type": "array", "items": text | {"enum": ["segment", "word"]}}
        fields["language"] = text | {"description": "A language's code or name."}
        fields["stream"] = {"type": "boolean", "default": False}
        fields["timestamp_granularities[]"] = units
        said = "Names and terms to listen for, beside those of the language and the model."
        terms = {"type": "array", "items": text, "maxItems": MOST_TERMS, "description": said}
        fields["glossary[]"] = terms
        said = "false: without the glossaries of the language and the model."
        fields["use_glossary"] = {"type": "boolean", "default": True, "description": said}
    form = {"type": "object", "required": ["file", "model"], "properties": fields}
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {"type": "object", "required": ["message", "type", "param", "code"]}
        },
    }
    refused = {"content": {"application/json": {"schema": error}}}
    statuses = {400: "Wrong request", 401: "No valid key", 404: "No such model"}
    statuses |= {408: "The upload stopped", 413: "Too large", 429: "Too many requests"}
    statuses |= {503: "The model is unavailable now", 504: "The request took too long"}
    whole: dict[str, object] = {kind: {} for kind in ("application/json", "text/plain")}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {
            "200": {
                "description": "The transcript",
                "content": whole | {"text/event-stream": {}},
            }
        }
        | {str(it): refused | {"description": said} for it, said in statuses.items()},
    }
