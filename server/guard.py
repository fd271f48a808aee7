"""Checks a request before it is read: its key, its rate, and the size and speed of its body.

It is plain ASGI, so that a body is neither buffered nor copied.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorajob.server.errors import ApiError

OPEN_PATHS = ("/health",)  # answer without a key
IDLE_SECONDS = 60.0  # after which a client that sends nothing of its body gets 408
# The rest of a refused body is read within these limits, so that the client reads the answer.
DRAIN_SECONDS, DRAIN_BYTES = 10.0, 64 << 20


class RequestGuard:
    """Refuses requests without a valid key, too many requests, and bodies that are too large."""

    def __init__(
        self, app: ASGIApp, keys: Sequence[str], body_bytes: int, a_minute: int | None = None
    ) -> None:
        self._app, self._body_bytes = app, body_bytes
        # All hashes have one length, so the time of a comparison does not reveal a key's length.
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._a_minute = a_minute
        self._buckets: dict[bytes, tuple[float, float]] = {}  # key -> tokens, when

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._admit(scope)
            self._check_length(scope)
        except ApiError as error:
            await _drain(receive)
            await error.response()(scope, receive, send)
            return
        await self._app(scope, _Body(receive, self._body_bytes), send)

    def _admit(self, scope: Scope) -> None:
        if scope["path"] in OPEN_PATHS:
            return
        key = b""
        if self._keys:
            key = self._key_of(scope)
        if self._a_minute is not None and scope["method"] == "POST":
            self._count(key, self._a_minute)

    def _key_of(self, scope: Scope) -> bytes:
        kind, _, token = _header(scope, b"authorization").partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        # All keys are compared, so that the time does not reveal which one is similar.
        same = [hmac.compare_digest(digest, key) for key in self._keys]
        if kind.lower() != b"bearer" or not any(same):
            said = "Incorrect API key" if token else "No API key; send it as a bearer token"
            raise ApiError(401, said, code="invalid_api_key")
        return digest

    def _count(self, key: bytes, a_minute: int) -> None:
        now = time.monotonic()
        tokens, since = self._buckets.get(key, (float(a_minute), now))
        tokens = min(a_minute, tokens + (now - since) * a_minute / 60)
        if tokens < 1:
            raise ApiError(
                429,
                f"This key may send {a_minute} requests a minute",
                code="rate_limit_exceeded",
                retry_after=(1 - tokens) * 60 / a_minute,
            )
        self._buckets[key] = (tokens - 1, now)

    def _check_length(self, scope: Scope) -> None:
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > self._body_bytes:
            raise too_large(self._body_bytes)


class _Body:
    """Receives a request's body, and raises ApiError if it is too large or stands still."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        self._count, self._complete = 0, False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), IDLE_SECONDS)
        except TimeoutError:
            raise ApiError(408, f"No data of the body arrived for {IDLE_SECONDS:g} s") from None
        if message["type"] == "http.request":
            self._count += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._count > self._most:
                if not self._complete:
                    await _drain(self._receive)
                raise too_large(self._most)
        return message


def too_large(most: int) -> ApiError:
    """The answer to a body of more than `most` bytes."""
    return ApiError(413, f"The request is larger than {most / 1e6:g} MB", "file")


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


async def _drain(receive: Receive) -> None:
    """Read and drop what a client still sends, up to a limit."""
    left = DRAIN_BYTES
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
