"""Keys, roles, sessions, CSRF tokens and headers of `lorajob web`."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.testclient import TestClient

from lorajob.errors import UsageError
from lorajob.server.web import limits
from lorajob.server.web.app import MOST_BODY_BYTES, create_web_app
from lorajob.server.web.audit import AuditLog
from lorajob.server.web.auth import Principal, own_path, parse_keys
from lorajob.server.web.limits import StreamLimit
from lorajob.server.web.proxies import parse_proxies
from lorajob.server.web.state import WebService, open_service
from lorajob.server.web.streams import LiveEvents
from lorajob.worker.settings import Settings

HTML = {"Accept": "text/html"}


@pytest.fixture
def web(tmp_path: Path) -> WebService:
    settings = Settings(
        home=tmp_path,
        artifacts=tmp_path / "jobs",
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
        submit_keys=SecretStr("ana=send"),
        view_keys=SecretStr("look, ben=see"),
    )
    return open_service(settings)


@pytest.fixture
def client(web: WebService) -> Iterator[TestClient]:
    with TestClient(create_web_app(web), follow_redirects=False) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def password(web: WebService) -> str:
    return str(json.loads((web.folder / "access.json").read_text())["password"])


def log_in(client: TestClient, secret: str) -> str:
    """Log in and return the CSRF token."""
    assert client.post("/login", data={"password": secret}).status_code == 303
    # The first page needs Redis, which is not here.
    page = client.get("/login")
    assert page.status_code == 200
    return page.text.partition('name="csrf_token" value="')[2].partition('"')[0]


def test_the_password_is_made_once_and_only_its_user_can_read_it(web: WebService) -> None:
    file = web.folder / "access.json"
    assert file.stat().st_mode & 0o777 == 0o600 and web.folder.stat().st_mode & 0o77 == 0
    assert web.made_password == password(web) and len(password(web)) >= 24
    again = open_service(web.settings)
    assert again.made_password is None
    assert again.access.by_key(password(web)) is not None
    assert password(web) not in repr(web) and "send" not in repr(web)


@pytest.mark.parametrize("key", ["", "sen", "send2", "ana=send", "look,ben=see"])
def test_a_request_without_a_valid_key_reads_nothing(client: TestClient, key: str) -> None:
    headers = bearer(key) if key else {}
    for path in ("/api", "/api/openapi.json", "/api/jobs", "/api/nothing"):
        refused = client.get(path, headers=headers)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert client.post("/api/jobs", headers=headers).status_code == 401
    assert client.get("/health").json()["status"] == "ok"


def test_keys_have_roles_and_names(client: TestClient, web: WebService) -> None:
    who = [client.get("/api", headers=bearer(key)).json() for key in ("send", "see", "look")]
    assert [(it["user"], it["role"]) for it in who[:2]] == [("ana", "submit"), ("ben", "view")]
    assert who[2]["user"].startswith("key-") and who[2]["role"] == "view"
    own = client.get("/api", headers=bearer(password(web))).json()
    assert own["role"] == "submit"
    refused = client.post("/api/anything", headers=bearer("see"))
    assert refused.status_code == 403 and "ben may only view" in refused.json()["error"]["message"]
    assert client.post("/api/anything", headers=bearer("send")).status_code == 404
    # The header Host is no part of the path.
    for host in ("x/logout?", "x/login?", "x/static/?"):
        assert client.post("/api/x", headers=bearer("see") | {"Host": host}).status_code == 403
        assert client.get("/api/openapi.json", headers={"Host": host}).status_code == 401


@pytest.mark.parametrize("text", ["=key", "ana=", "a,b="])
def test_malformed_keys_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="LORAJOB_VIEW_KEYS: a key or its name is empty"):
        parse_keys(text, "view")


def test_a_key_is_a_word_of_ascii_and_a_short_one_is_named(
    web: WebService, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("ana=नमस्ते", "ana= key"):
        with pytest.raises(UsageError, match="LORAJOB_SUBMIT_KEYS: a key has a space or a letter"):
            parse_keys(text, "submit")
    caplog.clear()
    long = web.settings.model_copy(update={"view_keys": SecretStr(f"eva={'k' * 16}")})
    open_service(long)
    assert [it.message for it in caplog.records] == [
        "LORAJOB_SUBMIT_KEYS: the key of ana has fewer than 16 characters, so it can be guessed"
    ]


def test_a_person_logs_in_and_changes_need_the_token(client: TestClient, web: WebService) -> None:
    to_login = client.get("/?a=1", headers=HTML)
    assert to_login.status_code == 303
    assert to_login.headers["Location"] == "/login?next=/%3Fa%3D1"
    assert client.post("/login", data={"password": "wrong"}).status_code == 401
    token = log_in(client, password(web))
    cookie = client.post("/login", data={"password": password(web)}).headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    for form in ({}, {"csrf_token": "0" * 64}):
        refused = client.post("/logout", data=form)
        assert refused.status_code == 403 and refused.json()["error"]["code"] == "csrf"
        shown = client.post("/logout", data=form, headers=HTML)
        assert shown.status_code == 403 and "<h1>Not allowed</h1>" in shown.text
    many = client.post("/logout", data={f"a{number}": "b" for number in range(1001)})
    assert many.status_code == 400
    assert client.post("/api/anything").status_code == 403
    assert client.post("/api/anything", json={"csrf_token": token}).status_code == 403
    own = {"X-CSRF-Token": log_in(client, password(web))}
    assert client.post("/api/anything", headers=own).status_code == 404
    for site in ("cross-site", "same-site"):
        other = own | {"Sec-Fetch-Site": site}
        assert client.post("/api/anything", headers=other).status_code == 403
        login = client.post("/login", data={"password": "x"}, headers={"Sec-Fetch-Site": site})
        assert login.status_code == 403
    copied = dict(client.cookies)
    gone = client.post("/logout", data={"csrf_token": own["X-CSRF-Token"]})
    assert gone.status_code == 303
    assert client.get("/", headers=HTML).status_code == 303
    # A copy of the cookie is of no use, also after a restart.
    session = copied[web.access.cookie]
    again = open_service(web.settings)
    assert web.access.by_session(session) is None and again.access.by_session(session) is None
    other = again.access.log_in(password(web))
    assert other is not None and again.access.by_session(other) is not None
    assert (web.folder / "ended.json").stat().st_mode & 0o777 == 0o600
    (web.folder / "ended.json").write_text("[]")
    assert open_service(web.settings).access.by_session(other) is not None


def test_a_session_ends_with_its_key_and_cannot_be_altered(web: WebService) -> None:
    cookie = web.access.log_in("see")
    assert cookie is not None
    found = web.access.by_session(cookie)
    assert found is not None and (found.name, found.role) == ("ben", "view")
    body, _, signature = cookie.rpartition(".")
    for other in (f"{body}x.{signature}", f"{body}.{'0' * 64}", signature, "", "ü.ü"):
        assert web.access.by_session(other) is None
    without = web.settings.model_copy(update={"view_keys": None})
    assert open_service(without).access.by_session(cookie) is None
    promoted = web.settings.model_copy(update={"submit_keys": SecretStr("ben=see")})
    found = open_service(promoted).access.by_session(cookie)
    assert found is not None and found.role == "submit"


def test_wrong_passwords_are_limited_for_each_address_and_in_all(
    web: WebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_web_app(web)
    now = 1000.0
    monkeypatch.setattr(limits, "_now", lambda: now)

    def try_once(address: str, secret: str = "x") -> int:
        client = TestClient(app, client=(address, 50000), follow_redirects=False)
        answer = client.post("/login", data={"password": secret})
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        return answer.status_code

    assert [try_once("10.0.0.1") for _ in range(31)] == [401] * 30 + [429]
    assert try_once("10.0.0.1", "see") == 429
    # Others are not locked out by it.
    assert (try_once("10.0.0.2"), try_once("10.0.0.2", "see")) == (401, 303)
    # One client has all addresses of its IPv6 network.
    found = [try_once(f"2001:db8::{number:x}") for number in range(31)]
    assert found == [401] * 30 + [429]
    assert try_once("2001:db8:0:1::1") == 401
    monkeypatch.setattr(limits, "ALL_FAILURES_A_MINUTE", 62)
    assert try_once("10.0.0.3", "see") == 429
    now += 61
    assert try_once("10.0.0.1", "see") == 303
    assert TestClient(app).get("/api", headers=bearer("see")).status_code == 200


def test_only_named_proxies_state_the_address_of_a_client(
    web: WebService, caplog: pytest.LogCaptureFixture
) -> None:
    trusted = parse_proxies("10.0.0.9, 10.1.0.0/16, proxy.local,")
    assert trusted == ["10.0.0.9", "10.1.0.0/16"] and "'proxy.local' is left out" in caplog.text
    app = create_web_app(web, proxies=trusted)

    def try_once(proxy: str, stated: str) -> int:
        client = TestClient(app, client=(proxy, 50000), follow_redirects=False)
        headers = {"X-Forwarded-For": stated}
        return client.post("/login", data={"password": "x"}, headers=headers).status_code

    for proxy, address in (("10.0.0.9", "1.1.1.1"), ("10.1.2.3", "1.1.1.2")):
        # What a client states itself comes first, and is not believed.
        found = [try_once(proxy, f"9.9.9.{number}, {address}") for number in range(31)]
        assert found == [401] * 30 + [429] and try_once(proxy, "2.2.2.2") == 401
    found = [try_once("10.0.0.7", f"3.3.3.{number}") for number in range(31)]
    assert found == [401] * 30 + [429]
    assert caplog.text.count("X-Forwarded-For from 10.0.0.7 is ignored") == 1
    client = TestClient(app, follow_redirects=False)
    for proto, secure in (("https", True), ("http", False)):
        headers = {"X-Forwarded-Proto": proto}
        answer = client.post("/login", data={"password": "see"}, headers=headers)
        assert ("secure" in answer.headers["Set-Cookie"].lower()) == secure


def test_streams_of_events_are_limited_for_each_client_and_in_all(
    web: WebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"

    async def stream(request: Request) -> LiveEvents:
        return LiveEvents(events())

    app = create_web_app(web)
    app.add_route("/api/stream", stream)
    monkeypatch.setattr(limits, "STREAMS", 2)
    monkeypatch.setattr(limits, "ALL_STREAMS", 3)

    def ask(key: str) -> tuple[int, str | None]:
        found = TestClient(app).get("/api/stream", headers=bearer(key))
        return found.status_code, found.headers.get("Retry-After")

    open_streams: StreamLimit = app.state.streams
    with ExitStack() as held:
        held.enter_context(open_streams.slot("ana testclient"))
        assert ask("send") == (200, None)
        held.enter_context(open_streams.slot("ana testclient"))
        assert ask("send") == (429, "5")
        assert ask("see") == (200, None)
        held.enter_context(open_streams.slot("eva elsewhere"))
        assert ask("see") == (503, "5")
    # Streams that have ended do not count.
    assert [ask("send") for _ in range(3)] == [(200, None)] * 3


@pytest.mark.parametrize(
    ("asked", "found"),
    [("/jobs?a=b", "/jobs?a=b"), ("//host", "/"), ("/\\host", "/"), ("http://h", "/"), ("", "/")],
)
def test_a_login_leads_only_to_pages_of_this_server(asked: str, found: str) -> None:
    assert own_path(asked) == found


def test_every_answer_has_strict_headers(
    client: TestClient, web: WebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(WebService, "jobs", fail)
    failing = TestClient(client.app, raise_server_exceptions=False, headers=bearer("see"))
    broken = failing.get("/models"), failing.get("/api/jobs")
    assert [it.status_code for it in broken] == [500, 500]
    assert all("secret" not in it.text and "Traceback" not in it.text for it in broken)
    paths = ("/", "/login", "/api", "/nothing", "/health")
    for headers in (it.headers for it in (*map(client.get, paths), *broken)):
        policy = dict(it.split(" ", 1) for it in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'"
        assert policy["style-src"] == "'self'" and policy["base-uri"] == "'none'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_a_large_body_is_refused(client: TestClient) -> None:
    large = b" " * (MOST_BODY_BYTES + 1)
    assert client.post("/api/anything", content=large, headers=bearer("send")).status_code == 413


def test_the_audit_log_is_rotated(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "web", most_bytes=200)
    for number in range(20):
        log.write(Principal("ana", "submit"), "cancel", f"hi-{number}", why="नमस्ते")
    lines = [json.loads(it) for it in log.path.read_text("utf-8").splitlines()]
    assert lines[-1]["job"] == "hi-19" and lines[-1]["why"] == "नमस्ते"
    assert {it["who"] for it in lines} == {"ana"} and lines[-1]["by"] == "key"
    files = sorted(it.name for it in log.folder.glob("audit.jsonl*"))
    assert files == ["audit.jsonl", *(f"audit.jsonl.{number}" for number in range(1, 6))]
    assert {it.stat().st_mode & 0o777 for it in log.folder.iterdir()} == {0o600}


def test_the_server_loads_no_torch() -> None:
    code = "import sys, lorajob.server.web.run; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
