"""Errors in the form of OpenAI's API: a status code and {"error": {...}}."""

import math

from starlette.responses import JSONResponse, Response

from lorajob.errors import LorajobError
from lorajob.serving.pool import ModelResting

RETRY_SECONDS = 1.0
LEFT = 499  # status of a request whose client left, as nginx writes it

# Kind of a LorajobError -> status code, for errors of a model's process.
STATUS_OF_KIND = {
    "usage": 400,
    "audio": 400,
    "corpus": 400,
    "job": 404,
    "crash": 503,
    "memory": 503,
}
# Others below 500 are invalid_request_error, those from 500 on server_error.
TYPE_OF_STATUS = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error response. `param` is the wrong field."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.retry_after = param, code, retry_after

    @property
    def body(self) -> dict[str, object]:
        """The error as OpenAI writes it."""
        other = "invalid_request_error" if self.status < 500 else "server_error"
        kind = TYPE_OF_STATUS.get(self.status, other)
        values = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": values}

    def response(self) -> Response:
        """The response."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def api_error(error: LorajobError) -> ApiError:
    """The response for an error of the library or of a model's process."""
    status = STATUS_OF_KIND.get(error.kind, 500)
    message = str(error)
    if error.kind == "usage":
        param, colon, rest = message.partition(": ")
        known = param in ("file", "glossary", "language", "model", "prompt", "temperature")
        return ApiError(400, rest if known and colon else message, param if known else None)
    pause = error.seconds if isinstance(error, ModelResting) else RETRY_SECONDS
    return ApiError(status, message, retry_after=pause if status == 503 else None)
