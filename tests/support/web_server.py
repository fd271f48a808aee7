"""Web servers for tests; one with an archive, which misbehaves as it is told."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The url of a server whose requests `handler` answers, while the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # The end of the block waits for the next poll.
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@dataclass
class Archive:
    """What lies at `url`, and how the server answers."""

    data: bytes
    modified: str = "Mon, 01 Jan 2024 00:00:00 GMT"
    status: int = 200
    ranges: bool = True
    pause_seconds: float = 0.0  # between two parts
    url: str = ""
    asked: list[str | None] = field(default_factory=list)  # the ranges


@pytest.fixture
def web() -> Iterator[Archive]:
    made = Archive(bytes(range(256)) * 64)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            wanted, data = self.headers["Range"], made.data
            status = made.status
            if wanted and made.ranges and status == 200:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                status, data = 206, data[int(first) : int(last) + 1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Last-Modified", made.modified)
            self.end_headers()
            if self.command == "GET":
                made.asked.append(wanted)
                for start in range(0, len(data), 1000):
                    self.wfile.write(data[start : start + 1000])
                    time.sleep(made.pause_seconds)

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as url:
        made.url = f"{url}/cv-hi.tar.gz"
        yield made
