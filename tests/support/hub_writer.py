"""A server that speaks as much of the Hub's API as it takes to publish a model."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.support.web_server import serving

SHA = "b" * 40


@dataclass
class Hub:
    """What the server holds and how it answers."""

    token: str = "hf_write"
    refuse_commits: int = 0  # with status 500, so many
    url: str = ""
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)  # name -> file -> content
    private: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)


@contextmanager
def publishing_hub(**how: Any) -> Iterator[Hub]:
    made = Hub(**how)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = self.parts()
            name = "/".join(parts[2:4])
            if parts[:2] != ["api", "models"] or name not in made.models:
                self.say(404, {"error": "Repository not found"}, "RepoNotFound")
            elif parts[4:5] == ["tree"]:
                files = made.models[name].items()
                rows = [
                    {"type": "file", "path": path, "size": len(data), "oid": SHA}
                    for path, data in files
                ]
                self.say(200, rows)
            else:
                files = [{"rfilename": path} for path in made.models[name]]
                self.say(200, {"id": name, "sha": SHA, "siblings": files, "tags": []})

        def do_DELETE(self) -> None:
            body = json.loads(self.body())
            made.models.pop(f"{body['organization']}/{body['name']}", None)
            self.say(200, {})

        def do_POST(self) -> None:
            parts, body = self.parts(), self.body()
            if self.headers["Authorization"] != f"Bearer {made.token}":
                self.say(401, {"error": "Invalid username or password."})
            elif parts == ["api", "repos", "create"]:
                self.create(json.loads(body))
            elif parts == ["api", "validate-yaml"]:
                self.validate(json.loads(body)["content"])
            elif parts[4:5] == ["preupload"]:
                files = [
                    {"path": it["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for it in json.loads(body)["files"]
                ]
                self.say(200, {"files": files})
            elif parts[4:5] == ["commit"] and made.refuse_commits:
                made.refuse_commits -= 1
                self.say(400, {"error": "The commit is refused"})
            elif parts[4:5] == ["commit"]:
                self.commit("/".join(parts[2:4]), body)
            else:
                self.say(404, {"error": "not here"})

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            new = name not in made.models
            if new:
                made.models[name] = {".gitattributes": b""}
            if asked.get("private") or asked.get("visibility") == "private":
                made.private.add(name)
            self.say(200 if new else 409, {"url": f"{made.url}/{name}", "name": name})

        def validate(self, card: str) -> None:
            front = yaml.safe_load(card.split("---\n")[1])
            known = str(front.get("license")) in ("apache-2.0", "mit", "other")
            errors = [] if known else [{"message": '"license" must be one of [apache-2.0, ...]'}]
            self.say(200 if known else 400, {"errors": errors, "warnings": []})

        def commit(self, name: str, body: bytes) -> None:
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    made.models[name][value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "deletedFile":
                    del made.models[name][value["path"]]
                elif entry["key"] == "header":
                    made.commits.append(value["summary"])
            url = f"{made.url}/{name}/commit/{SHA}"
            self.say(200, {"success": True, "commitOid": SHA, "commitUrl": url})

        def parts(self) -> list[str]:
            return unquote(urlsplit(self.path).path).strip("/").split("/")

        def body(self) -> bytes:
            if self.headers["Transfer-Encoding"] != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"] or 0))
            read = b""
            while size := int(self.rfile.readline(), 16):
                read += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return read

        def say(self, status: int, value: Any, code: str = "") -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as url:
        made.url = url
        yield made
