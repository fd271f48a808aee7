"""A server that speaks the Hub's API for a few data sets, and says no as the Hub does."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.support.web_server import serving

SHA = "a" * 40


@contextmanager
def hub(folder: Path, gated: str = "", token: str = "") -> Iterator[str]:
    """The url of a Hub whose data set OWNER/NAME lies in `folder`/OWNER/NAME.

    The data set `gated` needs terms to be accepted. A reader with `token` has accepted them.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"] or 0)
            body = self.rfile.read(length).decode()
            path = urlsplit(self.path).path
            if "/paths-info/" in path:
                values = json.loads(body) if body.startswith("{") else parse_qs(body)
                name = "/".join(path.split("/")[3:5])
                paths = values["paths"]
                self.say(200, [it for p in paths for it in entries(folder / name, p)])
            else:
                self.say(404, {})

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "datasets"]:
                self.api("/".join(parts[2:4]), parts[4:])
            elif parts[0] == "datasets" and "resolve" in parts:
                self.file("/".join(parts[1:3]), "/".join(parts[5:]))
            else:
                self.say(404, {})

        def api(self, name: str, rest: list[str]) -> None:
            root = folder / name
            if not root.is_dir():
                self.say(401, {"error": "Invalid username or password."}, "RepoNotFound")
            elif rest[:1] == ["auth-check"]:
                self.say(200 if self.welcome(name) else 403, {}, "" if self.welcome(name) else "G")
            elif rest[:1] == ["tree"]:
                self.say(200, entries(root, "/".join(rest[2:]), below=True))
            elif rest[:1] in ([], ["revision"]):
                if rest[1:] not in ([], ["main"], [SHA]):
                    self.say(404, {"error": "Invalid rev"}, "RevisionNotFound")
                    return
                files = [{"rfilename": it["path"]} for it in entries(root, "", below=True)]
                info: dict[str, Any] = {
                    "id": name,
                    "sha": SHA,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                }
                gates = "auto" if name == gated else False
                card = root / "README.md"
                if card.is_file():
                    info["cardData"] = yaml.safe_load(card.read_text("utf-8").split("---\n")[1])
                self.say(200, info | {"gated": gates, "siblings": files, "likes": 0})
            else:
                self.say(404, {"error": "not here"}, "EntryNotFound")

        def file(self, name: str, inner: str) -> None:
            path = folder / name / inner
            if not self.welcome(name):
                self.say(403, {"error": "Access to dataset is restricted."}, "GatedRepo")
            elif not path.is_file():
                self.say(404, {"error": "Entry not found"}, "EntryNotFound")
            else:
                data, status = path.read_bytes(), 200
                total = len(data)
                if wanted := self.headers["Range"]:
                    first, _, last = wanted.removeprefix("bytes=").partition("-")
                    data, status = data[int(first) : int(last or total - 1) + 1], 206
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if status == 206:
                    span = f"bytes {first}-{int(first) + len(data) - 1}/{total}"
                    self.send_header("Content-Range", span)
                self.send_header("ETag", f'"{hashlib.sha1(path.read_bytes()).hexdigest()}"')
                self.send_header("X-Repo-Commit", SHA)
                self.send_header("Accept-Ranges", "bytes")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

        def welcome(self, name: str) -> bool:
            return name != gated or self.headers["Authorization"] == f"Bearer {token}"

        def say(self, status: int, value: Any, code: str = "") -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if code:
                self.send_header("X-Error-Code", "GatedRepo" if code == "G" else code)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as url:
        yield url


def entries(root: Path, inner: str, below: bool = False) -> list[dict[str, Any]]:
    """What the API says of a file or folder of a data set, or of all in it."""
    path = root / inner
    found = sorted(path.rglob("*")) if below and path.is_dir() else [path]
    said = []
    for it in found:
        name = it.relative_to(root).as_posix()
        if it.is_dir() and name != ".":
            said.append({"type": "directory", "path": name, "oid": SHA})
        elif it.is_file():
            oid = hashlib.sha1(it.read_bytes()).hexdigest()
            said.append({"type": "file", "path": name, "size": it.stat().st_size, "oid": oid})
    return said
