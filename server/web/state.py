"""What all requests of `lorajob web` share."""

import getpass
import logging
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from pydantic import SecretStr
from redis import Redis
from starlette.requests import Request

from lorajob.server.web.access import FOLDER, EndedSessions, WebAccess, open_access
from lorajob.server.web.audit import AuditLog
from lorajob.server.web.auth import (
    SAFE_LETTERS,
    Access,
    ApiKey,
    Principal,
    Role,
    parse_keys,
    principal,
)
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import connect, redis_url
from lorajob.worker.settings import Settings

log = logging.getLogger(__name__)


@dataclass
class WebService:
    """The state of one server."""

    settings: Settings
    access: Access
    audit: AuditLog
    made_password: str | None = field(default=None, repr=False)
    """The password, if this start made it."""
    _redis: tuple[str, Redis] | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def redis(self) -> Redis:
        """A client, shared by all requests. After `lorajob down` and `up` it is a new one."""
        url = redis_url(self.settings)
        with self._lock:
            if self._redis is None or self._redis[0] != url:
                self._redis = url, connect(self.settings)
            return self._redis[1]

    def jobs(self, who: Principal) -> Jobs:
        """The jobs of the service, as this user sees and submits them.

        They are made for each request: they remember where corpora were found, for one submission.
        """
        own = self.settings.model_copy(update={"user": who.name})
        return Jobs(own, self.redis)

    def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            self._redis[1].close()

    @property
    def folder(self) -> Path:
        """The folder in LORAJOB_HOME for the password, the audit log and uploads."""
        return self.settings.home / FOLDER


def open_service(settings: Settings) -> WebService:
    """The state of a new server. Raises UsageError for malformed keys, and ServiceError."""
    home = settings.home.expanduser().resolve()
    settings = settings.model_copy(update={"home": home})
    keys = [*_keys(settings.submit_keys, "submit"), *_keys(settings.view_keys, "view")]
    access, made = open_access(home)
    return WebService(
        settings=settings,
        access=Access(access, keys, settings.user or _login_name(), EndedSessions(home / FOLDER)),
        audit=AuditLog(home / FOLDER),
        made_password=access.password if made else None,
    )


def own_service(settings: Settings, key: str) -> WebService:
    """The state of a server inside a program of this machine's user, who alone has the key."""
    home = settings.home.expanduser().resolve()
    settings = settings.model_copy(update={"home": home})
    access = WebAccess(password=key, secret=secrets.token_urlsafe(32))
    ended = EndedSessions(home / FOLDER)
    return WebService(
        settings=settings,
        access=Access(access, (), settings.user or _login_name(), ended),
        audit=AuditLog(home / FOLDER),
    )


def _keys(secret: SecretStr | None, role: Role) -> list[ApiKey]:
    if secret is None:
        return []
    found = parse_keys(secret.get_secret_value(), role)
    for name in (it.name for it in found if it.short):
        log.warning(
            "LORAJOB_%s_KEYS: the key of %s has fewer than %d characters, so it can be guessed",
            role.upper(),
            name,
            SAFE_LETTERS,
        )
    return found


def _login_name() -> str:
    try:
        return getpass.getuser()
    # A container's user may have no name.
    except (KeyError, OSError):
        return "lorajob"


def web_service(request: Request) -> WebService:
    """The state, for a route."""
    service: WebService = request.app.state.web
    return service


def user_jobs(
    service: Annotated[WebService, Depends(web_service)],
    who: Annotated[Principal, Depends(principal)],
) -> Jobs:
    """The jobs as the user of the request sees them, for a route."""
    return service.jobs(who)


Service = Annotated[WebService, Depends(web_service)]
User = Annotated[Principal, Depends(principal)]
UserJobs = Annotated[Jobs, Depends(user_jobs)]
