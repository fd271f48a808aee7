"""The process that Prometheus scrapes: /metrics and /healthz over HTTP.

It handles the requests itself instead of using prometheus_client's WSGI app with a wrapper. That
app is served by wsgiref, which waits without limit for a silent client, logs each request to
standard error and shows the version of Python to every client. A fix for these is longer than this
file.
"""

import base64
import hmac
import logging
import signal
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from lorajob import logs
from lorajob.errors import ServiceError, UsageError
from lorajob.storage.urls import is_loopback
from lorajob.worker.connect import connect
from lorajob.worker.monitoring.metrics import ServiceCollector
from lorajob.worker.settings import Settings

USER = "lorajob"
REQUEST_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Exporter(ThreadingHTTPServer):
    """Answers scrapes until `shutdown`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(ServiceCollector(connect(settings)))
        secret = settings.metrics_password
        self.password = secret.get_secret_value() if secret is not None else None
        super().__init__((host, port), Handler)


class Handler(BaseHTTPRequestHandler):
    """One request. /healthz needs no password: it only shows that this process answers."""

    server_version = "lorajob"
    sys_version = ""
    timeout = REQUEST_SECONDS  # for a client that sends nothing

    def do_GET(self) -> None:
        server = cast(Exporter, self.server)
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._answer(HTTPStatus.OK, b"ok\n")
        elif path != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, b"/metrics and /healthz are here\n")
        elif not admitted(self.headers.get("Authorization"), server.password):
            self._answer(
                HTTPStatus.UNAUTHORIZED,
                b"LORAJOB_METRICS_PASSWORD as bearer token or basic auth\n",
                {"WWW-Authenticate": 'Basic realm="lorajob"'},
            )
        else:
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, encode(server.registry), {"Content-Type": kind})

    def _answer(
        self, status: HTTPStatus, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        kind = {"Content-Type": "text/plain; charset=utf-8"}
        for name, value in (kind | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)


def admitted(header: str | None, password: str | None) -> bool:
    """Whether an Authorization header is valid: `Bearer PASSWORD`, or basic auth as `lorajob`.

    Without a password every request is admitted.
    """
    if password is None:
        return True
    kind, _, given = (header or "").partition(" ")
    basic = base64.b64encode(f"{USER}:{password}".encode()).decode()
    wanted = {"bearer": password, "basic": basic}.get(kind.lower())
    if wanted is None:
        return False
    return hmac.compare_digest(given.strip().encode(), wanted.encode())


def run_exporter(settings: Settings, host: str, port: int, insecure: bool = False) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises UsageError if other machines could read the metrics without a password, and ServiceError
    if no URL of a Redis is known or the server cannot listen.
    """
    if settings.metrics_password is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"--host {host}: others could read the metrics; set LORAJOB_METRICS_PASSWORD,"
            " or say --insecure"
        )
    try:
        server = Exporter(settings, host, port)
    except OSError as error:
        raise ServiceError(f"--host {host} --port {port}: {error.strerror}") from None

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    logs.configure()
    with server:
        logger.info("metrics at http://%s:%d/metrics", host, server.server_address[1])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
