"""Corpus urls reach no link-local and no metadata address, by name or by redirect either."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from lorajob.corpora.remote import check_remote
from lorajob.errors import UsageError
from lorajob.storage import guard
from lorajob.storage.guard import is_refused
from lorajob.storage.store import Store
from tests.support.web_server import serving

SAID = "a link-local or metadata address.*LORAJOB_ALLOWED_HOSTS"


class _Redirect(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/x.tar.gz")
        else:
            self.send_response(200)
            self.send_header("Content-Length", "3")
        self.end_headers()
        if self.command == "GET" and not self.path.startswith("/away"):
            self.wfile.write(b"abc")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with serving(_Redirect) as url:
        yield url


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("169.254.169.254", True),
        ("169.254.0.1", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.169.254", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("2001:db8::1", False),
    ],
)
def test_link_local_and_metadata_addresses(address: str, refused: bool) -> None:
    assert is_refused(address) is refused


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/x.tar.gz",
        "simplecache::http://169.254.169.254/x.tar.gz",
    ],
)
def test_an_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError, match=SAID):
        check_remote(url)


def test_a_redirect_is_refused(server: str) -> None:
    with pytest.raises(UsageError, match=SAID):
        check_remote(f"{server}/away/x.tar.gz")


def test_a_name_and_an_allowed_host(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "is_refused", lambda address: True)
    named = server.replace("127.0.0.1", "localhost")
    with pytest.raises(UsageError, match=f"localhost is at .*{SAID}"):
        check_remote(f"{named}/a.tar.gz")
    monkeypatch.setenv("LORAJOB_ALLOWED_HOSTS", "example.org, localhost")
    assert (Store(f"{named}/a.tar.gz").info() or {})["size"] == 3
