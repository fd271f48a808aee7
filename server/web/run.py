"""Runs `lorajob web` until SIGINT or SIGTERM."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

import uvicorn

from lorajob import logs
from lorajob.server.run import MOST_CONNECTIONS, bound_socket, shown_address
from lorajob.server.web.access import FILE
from lorajob.server.web.app import MOST_UPLOAD_BYTES, create_web_app
from lorajob.server.web.proxies import VARIABLE, parse_proxies
from lorajob.server.web.state import WebService, open_service
from lorajob.storage.urls import is_loopback
from lorajob.worker.settings import Settings

GRACE_SECONDS = 5  # for open requests when the server is told to end
Say = Callable[[str, WebService], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebOptions:
    """The options of `lorajob web`."""

    host: str = "127.0.0.1"
    port: int = 8080
    upload_bytes: int = MOST_UPLOAD_BYTES
    proxies: tuple[str, ...] = ()  # addresses whose X-Forwarded-For is believed


def run_web(settings: Settings, options: WebOptions, say: Say) -> None:
    """Serve until SIGINT or SIGTERM. `say` gets the address when the server listens.

    Raises UsageError for malformed keys, and ServiceError if the address cannot be used.
    """
    service = open_service(settings)
    listening = bound_socket(options.host, options.port)
    logs.configure()
    options = replace(options, proxies=tuple(parse_proxies(os.environ.get(VARIABLE, ""))))
    if not is_loopback(options.host):
        log.warning(
            "--host %s: other machines can reach it, by plain HTTP; put a proxy with TLS in front",
            options.host,
        )
    # uvicorn raises these signals again when it ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with listening:
        asyncio.run(_Server(service, options, listening, say).serve(sockets=[listening]))


class _Server(uvicorn.Server):
    """uvicorn that calls `say` when it listens."""

    def __init__(
        self, service: WebService, options: WebOptions, listening: socket.socket, say: Say
    ) -> None:
        super().__init__(
            uvicorn.Config(
                create_web_app(service, options.upload_bytes, proxies=options.proxies),
                log_config=None,
                proxy_headers=False,
                access_log=False,
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._service, self._say = service, say
        self._address = shown_address(listening)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets)
        if self.started:
            self._say(self._address, self._service)


def password_place(service: WebService) -> str:
    """The file that holds the password, for people."""
    return str(service.folder / FILE)
