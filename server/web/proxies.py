"""Proxies in front of `lorajob web`: only those that FORWARDED_ALLOW_IPS names are believed.

A proxy states the address of its client in X-Forwarded-For, and https in X-Forwarded-Proto. Any
client can send these headers, so those of others are ignored.
"""

import ipaddress
import logging
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

VARIABLE = "FORWARDED_ALLOW_IPS"  # as uvicorn calls it
STATED, SCHEME = b"x-forwarded-for", b"x-forwarded-proto"

log = logging.getLogger(__name__)


def parse_proxies(text: str) -> list[str]:
    """The addresses and networks of a list with commas; * is any. A wrong one is logged."""
    found = []
    for each in (it.strip() for it in text.split(",")):
        if each != "*":
            try:
                ipaddress.ip_network(each, strict=False)
            except ValueError:
                if each:
                    said = "%s: %r is left out; give addresses, such as 10.0.0.5,10.1.0.0/16"
                    log.warning(said, VARIABLE, each)
                continue
        found.append(each)
    return found


class Proxies:
    """Takes the client's address and scheme from the headers of trusted proxies."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        # uvicorn has protocols of its own for ASGI, which Starlette's types do not match.
        self._believing = ProxyHeadersMiddleware(app, list(trusted))  # type: ignore[arg-type]
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope["client"][0] if scope.get("client") else ""
        if client in self._believing.trusted_hosts:
            await self._believing(scope, receive, send)  # type: ignore[arg-type]
            return
        if not self._warned and any(name == STATED for name, _ in scope["headers"]):
            self._warned = True
            log.warning(
                "X-Forwarded-For from %s is ignored, so all clients behind it count as one; "
                "if it is your proxy, start `lorajob web` with %s=%s",
                client or "?",
                VARIABLE,
                client or "ADDRESS",
            )
        await self._app(scope, receive, send)


def came_by_https(scope: Scope) -> bool:
    """Whether the browser used https, also by a proxy that is not trusted.

    A false claim only keeps the sender's own cookie from plain http.
    """
    stated = (value for name, value in scope["headers"] if name == SCHEME)
    return scope["scheme"] == "https" or b"https" in next(stated, b"").lower().split(b",")
