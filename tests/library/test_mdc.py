"""Data sets of the Mozilla Data Collective, whose server is a false one here."""

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lorajob.corpora import check_remote, mdc, open_corpus, remote
from lorajob.errors import UsageError
from lorajob.storage.store import StoreError
from tests.support.speech import Spoken, make_release, pack
from tests.support.web_server import serving

if sys.version_info < (3, 11, 4):
    pytest.skip("the package datacollective needs Python 3.11.4", allow_module_level=True)

KEY = "key-of-this-test"
LINES = [Spoken("c1.mp3", "हाँ"), Spoken("c2.mp3", "नहीं", "b", "test")]


class Collective:
    """What the server has. `cut` is after how many bytes a download breaks off."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.cut: int | None = None
        self.asked: list[str | None] = []


@pytest.fixture
def collective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collective]:
    root = make_release(tmp_path / "made", LINES)
    # The client writes 64 KB at a time.
    (root / "clips" / "noise.bin").write_bytes(random.Random(0).randbytes(300_000))
    made = Collective(pack(root, tmp_path / "release.tar.gz").read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/archive":
                self.asked()
            elif self.path == "/api/datasets/abc":
                self.say(200, {"id": "abc", "filename": FILE, "checksum": checksum(made.data)})
            elif self.path == "/api/datasets/broken":
                self.say(500, {"message": "out of order"})
            else:
                self.say(404, {"message": "no such data set"})

        def do_POST(self) -> None:
            if self.headers["Authorization"] != f"Bearer {KEY}":
                self.say(401, {"message": "who are you"})
                return
            size = len(made.data)
            url = f"http://{self.headers['Host']}/archive"
            told = {"downloadUrl": url, "sizeBytes": size, "checksum": checksum(made.data)}
            self.say(200, told)

        def asked(self) -> None:
            made.asked.append(self.headers["Range"])
            first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            data = made.data[first:]
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: made.cut])

        def say(self, status: int, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as url:
        monkeypatch.setenv("MDC_API_URL", f"{url}/api")
        monkeypatch.setenv("MDC_API_KEY", KEY)
        monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
        yield made


FILE = "cv-corpus-23.0-2025-09-05-hi.tar.gz"


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_data_set_is_fetched_once_and_anew_when_it_was_replaced(collective, tmp_path):
    check_remote("mdc:abc")
    path = remote.fetch("mdc:abc")
    assert path.name == FILE and path.read_bytes() == collective.data
    assert open_corpus(path, "hi").splits == {"train": 1, "test": 1}
    assert remote.fetch("mdc:abc") == path and len(collective.asked) == 1
    changed = make_release(tmp_path / "new", [*LINES, Spoken("c3.mp3", "और")])
    collective.data = pack(changed, tmp_path / "new.tar.gz").read_bytes()
    assert open_corpus(remote.fetch("mdc:abc"), "hi").splits == {"train": 2, "test": 1}


def test_submit_refuses_a_release_of_another_language(collective):
    mdc.check_language("mdc:abc", "hi")
    with pytest.raises(UsageError, match="mdc:abc is of hi, but the job's language is ta"):
        mdc.check_language("mdc:abc", "ta")


def test_a_download_that_broke_off_is_resumed(collective):
    collective.cut = len(collective.data) // 2
    with pytest.raises(StoreError, match="mdc:abc was not fetched"):
        remote.fetch("mdc:abc")
    collective.cut = None
    assert remote.fetch("mdc:abc").read_bytes() == collective.data
    assert collective.asked[1] and collective.asked[1] != "bytes=0-"


@pytest.mark.parametrize(
    ("name", "key", "kind", "why"),
    [
        ("missing", KEY, UsageError, "does not exist, or was removed"),
        ("broken", KEY, StoreError, "out of order"),
        ("abc", "", UsageError, "Missing API key. Set env MDC_API_KEY"),
        ("abc", "wrong", UsageError, "API key in `MDC_API_KEY` is invalid"),
        ("a/b", KEY, UsageError, "is no data set of the Mozilla Data Collective"),
    ],
)
def test_what_cannot_be_fetched_is_named_in_one_line(collective, monkeypatch, name, key, kind, why):
    monkeypatch.setenv("MDC_API_KEY", key)
    with pytest.raises(kind) as caught:
        remote.fetch(f"mdc:{name}")
    said = str(caught.value)
    assert why in said and "\n" not in said and KEY not in said
