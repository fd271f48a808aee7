"""Who a request comes from, and what it may do.

A request names a key (`Authorization: Bearer KEY`) or has a session, which a person starts with the
password or a key. Keys have a role: `view` reads, `submit` also changes. Each path needs one of
them, unless it is in OPEN_PATHS, and each method that changes something needs `submit`. A session
also needs its CSRF token then. This is plain ASGI, so that nothing is read before it is allowed.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorajob.errors import UsageError
from lorajob.server.errors import ApiError
from lorajob.server.web.access import EndedSessions, WebAccess
from lorajob.server.web.limits import LoginLimit

Role = Literal["view", "submit"]

API = "/api"
MCP = "/mcp"  # of agents; their tools send requests to the API with the same key
LOGIN, LOGOUT = "/login", "/logout"
OPEN_PATHS = ("/health", "/favicon.ico", LOGIN)  # answer to everybody
OPEN_FOLDERS = ("/static/",)
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# Changes that the role `view` may make. A message to /mcp changes nothing by itself.
FOR_VIEWERS = (LOGOUT, MCP)
CSRF_HEADER, CSRF_FIELD = b"x-csrf-token", "csrf_token"
SESSION_SECONDS = 7 * 24 * 3600
MOST_FORM_BYTES = 1 << 20  # of a form whose CSRF token is a field
MOST_FIELDS = 1000  # of such a form
SAFE_LETTERS = 16  # a shorter key can be guessed


@dataclass(frozen=True)
class Principal:
    """Who a request comes from."""

    name: str
    """The name of the key; for the password, the user of the service."""
    role: Role
    csrf: str | None = None
    """The token that a session sends with changes; None for a key."""


@dataclass(frozen=True)
class ApiKey:
    """A key of a client. Only its hash is kept."""

    name: str
    role: Role
    digest: bytes
    short: bool = False


def parse_keys(text: str, role: Role) -> list[ApiKey]:
    """Keys such as `ana=KEY,KEY`, separated by commas; a name is optional. Raises UsageError."""
    found = []
    for part in text.split(","):
        if not part.strip():
            continue
        name, equals, key = part.strip().rpartition("=")
        if not key or (equals and not name):
            raise UsageError(
                f"LORAJOB_{role.upper()}_KEYS: a key or its name is empty; such as ana=KEY,KEY"
            )
        # A header cannot hold others.
        if not all("!" <= letter <= "~" for letter in key):
            raise UsageError(
                f"LORAJOB_{role.upper()}_KEYS: a key has a space or a letter that is not ASCII"
            )
        digest = _digest(key)
        name = name or f"key-{digest.hex()[:6]}"
        found.append(ApiKey(name, role, digest, len(key) < SAFE_LETTERS))
    return found


class Access:
    """Knows keys and password, and makes and reads sessions."""

    def __init__(
        self, access: WebAccess, keys: Sequence[ApiKey], user: str, ended: EndedSessions
    ) -> None:
        own = ApiKey(user, "submit", _digest(access.password))
        self._keys = (own, *keys)
        self._secret = access.secret.encode()
        # Browsers send cookies to all ports of a host: two services need two names.
        self.cookie = f"lorajob_{hashlib.sha256(self._secret).hexdigest()[:8]}"
        self._limit = LoginLimit()
        self._ended = ended

    def by_key(self, key: str) -> Principal | None:
        """Whose key or password this is."""
        digest = _digest(key)
        # All are compared, so that the time does not reveal which one is similar.
        found = [it for it in self._keys if hmac.compare_digest(digest, it.digest)]
        return Principal(found[0].name, found[0].role) if found else None

    def log_in(self, password: str, address: str = "") -> str | None:
        """The value of a new session's cookie; None for a wrong password or key.

        Raises ApiError 429 after too many wrong ones, from this address or from all.
        """
        self._limit.check(address)
        found = self.by_key(password)
        if found is None:
            self._limit.failed(address)
            return None
        values = {
            "name": found.name,
            "role": found.role,
            "ends": time.time() + SESSION_SECONDS,
            "key": self._mark(_digest(password)),
            "once": secrets.token_hex(8),
        }
        body = base64.urlsafe_b64encode(json.dumps(values).encode()).decode()
        return f"{body}.{self._sign('session', body)}"

    def by_session(self, cookie: str) -> Principal | None:
        """Whose session this is. Its key or password must still be valid."""
        body, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(self._sign("session", body).encode(), signature.encode()):
            return None
        if signature in self._ended:
            return None
        values = json.loads(base64.urlsafe_b64decode(body))
        marks = {self._mark(it.digest): it for it in reversed(self._keys)}
        key = marks.get(values["key"])
        if key is None or values["ends"] < time.time():
            return None
        return Principal(key.name, key.role, self._sign("csrf", body))

    def log_out(self, cookie: str) -> None:
        """End a session, also for a copy of its cookie."""
        if self.by_session(cookie) is not None:
            self._ended.add(cookie.rpartition(".")[2], time.time() + SESSION_SECONDS)

    def _mark(self, digest: bytes) -> str:
        return self._sign("key", digest.hex())

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self._secret, f"{what}:{text}".encode(), hashlib.sha256).hexdigest()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def principal(request: Request) -> Principal:
    """Who sent a request that was admitted. Raises ApiError 401 on an open path without one."""
    found = request.scope.get("lorajob.principal")
    if not isinstance(found, Principal):
        raise ApiError(401, "Log in first", code="invalid_api_key")
    return found


Answer = Callable[[Request, ApiError], Response]


class AccessGuard:
    """Lets only admitted requests pass, and notes who sent them in `scope`."""

    def __init__(self, app: ASGIApp, access: Access, answer: Answer) -> None:
        self._app, self._access, self._answer = app, access, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            found = self._find(request)
            scope["lorajob.principal"] = found
            # Not request.url: that is made of the header Host, too.
            if _is_open(scope["path"]):
                _check_site(request)
            elif found is None:
                if request.method == "GET" and not is_api(scope["path"]):
                    await _to_login(request)(scope, receive, send)
                    return
                raise _unknown(request)
            elif request.method not in SAFE_METHODS:
                receive = await self._admit_change(request, found)
        except ApiError as error:
            await self._answer(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _find(self, request: Request) -> Principal | None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._access.by_key(token.strip())
        cookie = request.cookies.get(self._access.cookie)
        return None if cookie is None else self._access.by_session(cookie)

    async def _admit_change(self, request: Request, found: Principal) -> Receive:
        """Check a request that changes something. Returns how its body is received."""
        if found.role != "submit" and request.scope["path"] not in FOR_VIEWERS:
            raise ApiError(403, f"{found.name} may only view; a key with the role submit is needed")
        if found.csrf is None:
            return request.receive
        _check_site(request)
        header = dict(request.scope["headers"]).get(CSRF_HEADER)
        if header is not None:
            _check_token(header.decode("latin-1"), found)
            return request.receive
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise _no_token()
        body = await _whole_form(request.receive)
        try:
            fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=MOST_FIELDS)
        except ValueError:
            raise ApiError(400, f"The form has more than {MOST_FIELDS} fields") from None
        _check_token(fields.get(CSRF_FIELD, [""])[0], found)
        return _Again(body, request.receive)


class _Again:
    """Gives the application a body that was read already."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _whole_form(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ApiError(400, "The request ended early")
        parts.append(message.get("body", b""))
        if sum(map(len, parts)) > MOST_FORM_BYTES:
            raise ApiError(413, f"The form is larger than {MOST_FORM_BYTES / 1e6:g} MB")
        if not message.get("more_body", False):
            return b"".join(parts)


def _check_token(token: str, found: Principal) -> None:
    if not hmac.compare_digest(token.encode("utf-8", "replace"), (found.csrf or "").encode()):
        raise _no_token()


def _no_token() -> ApiError:
    return ApiError(403, "The CSRF token is missing or old; reload the page", code="csrf")


def _check_site(request: Request) -> None:
    """Refuse a change that a page of another site asks for."""
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin"):
        raise ApiError(403, "Pages of other sites cannot change anything here", code="csrf")


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def is_api(path: str) -> bool:
    """Whether a path is for programs, whose errors are JSON."""
    return path in (API, MCP) or path.startswith(f"{API}/")


def _unknown(request: Request) -> ApiError:
    sent = "authorization" in request.headers
    said = "Incorrect API key" if sent else "No API key; send it as a bearer token, or log in"
    return ApiError(401, said, code="invalid_api_key")


def _to_login(request: Request) -> RedirectResponse:
    path, query = request.scope["path"], request.scope["query_string"].decode("latin-1")
    target = f"{path}?{query}" if query else path
    following = f"?next={quote(target, safe='/')}" if target != "/" else ""
    return RedirectResponse(f"{LOGIN}{following}", 303)


def own_path(text: str) -> str:
    """A path of this server to go to after the login; / for anything else, such as //host."""
    plain = text.startswith("/") and not text.startswith(("//", "/\\"))
    return text if plain and not any(ord(it) < 33 or it == "\\" for it in text) else "/"
