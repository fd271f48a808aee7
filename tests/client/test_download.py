"""A download goes on where its connection was lost, against a real server that cuts it."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lorajob.client.remote_files import extract
from lorajob.client.web_api import WebApi
from lorajob.errors import ServiceError, StageError
from tests.support.web_server import serving

CUT = 7_000  # bytes, after which each connection ends


@dataclass
class Cutting:
    """A server that ends each connection early, and how it answers."""

    url: str = ""
    data: bytes = b""
    mark: str = '"one"'
    next_mark: str = '"one"'  # of the second answer and those after it
    ranges: bool = True
    cut: int = CUT
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Cutting]:
    made = Cutting()
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as tar:
        for name in ("a", "b"):
            info = tarfile.TarInfo(name)
            info.size = 10_000
            tar.addfile(info, io.BytesIO(name.encode() * 10_000))
    made.data = file.getvalue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            mark = made.next_mark if made.asked else made.mark
            made.asked.append(wanted)
            start = 0
            if wanted and self.headers["If-Range"] == mark:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(made.data) - start))
            self.send_header("ETag", mark)
            if made.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            self.wfile.write(made.data[start : start + made.cut])

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as url:
        made.url = url
        yield made


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between connections, which take no time."""
    found: list[float] = []
    monkeypatch.setattr("lorajob.client.download.time.sleep", found.append)
    return found


def test_a_cut_download_goes_on_where_it_was(
    server: Cutting, tmp_path: Path, pauses: list[float]
) -> None:
    extract(WebApi(server.url), "/model", tmp_path)
    assert (tmp_path / "a").read_bytes() == b"a" * 10_000
    assert (tmp_path / "b").read_bytes() == b"b" * 10_000
    assert server.asked[:3] == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert set(pauses) == {1.0}


def test_a_download_that_changed_or_cannot_go_on_is_an_error(
    server: Cutting, tmp_path: Path, pauses: list[float]
) -> None:
    server.next_mark = '"two"'
    with pytest.raises(StageError, match="changed on the server during the download"):
        extract(WebApi(server.url), "/model", tmp_path)
    server.ranges = False
    with pytest.raises(StageError, match="was cut off"):
        extract(WebApi(server.url), "/model", tmp_path)


def test_a_server_that_sends_no_more_is_given_up(
    server: Cutting, tmp_path: Path, pauses: list[float]
) -> None:
    server.cut = 0
    with pytest.raises(ServiceError, match="ended the file early"):
        extract(WebApi(server.url), "/model", tmp_path)
    assert len(pauses) == 20 and sum(pauses) > 100
