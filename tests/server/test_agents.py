"""The tools of `lorajob mcp` and of /mcp, used by the client of the package mcp; no worker runs."""

import asyncio
import base64
import json
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import jsonschema
import pytest
from mcp import Client
from mcp.types import ClientCapabilities, ElicitationCapability, UrlElicitationCapability
from pydantic import SecretStr
from redis import Redis
from starlette.testclient import TestClient

from lorajob.client.remote import WebApi
from lorajob.server.agents.arguments import MOST_AUDIO_BYTES
from lorajob.server.agents.models import Agreement, ask_person
from lorajob.server.agents.rest import ROOT, Backend
from lorajob.server.agents.stdio import away
from lorajob.server.agents.tools import TOOLS, make_server
from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import WebService, open_service
from lorajob.tasks.jobs import Jobs
from lorajob.worker.settings import Settings
from tests.support.agents import Person, ask, over_http, over_stdio, refused
from tests.support.command import environment, url_of
from tests.support.corpora import write_corpus
from tests.support.service import LONG_SECONDS, wait_for
from tests.support.web_jobs import BASELINE, BETTER, CLIPS, FAILED, QUEUED, TRAINS, make_web_jobs
from tests.support.web_pages import web_server

NAMES = {
    "languages",
    "models",
    "transcribe",
    "check_corpus",
    "forecast",
    "submit",
    "status",
    "wait",
    "report",
    "compare",
    "cancel",
    "retry",
    "promote",
    "glossary",
    "add_terms",
}
KEYS = {"submit_keys": SecretStr("ana=send"), "view_keys": SecretStr("ben=see")}
MESSAGE = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
FORM = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


@pytest.fixture
def web(jobs: Jobs, tmp_path: Path) -> Iterator[tuple[str, WebService]]:
    """A server with five jobs in several states."""
    make_web_jobs(jobs)
    settings = jobs.settings.model_copy(update={"home": tmp_path / "home"} | KEYS)
    with web_server(settings) as found:
        yield found


async def _tools_over_http(url: str, folder: Path) -> None:
    person = Person(agrees=False)
    async with over_http(url, "send", elicitation_callback=person) as agent:
        page = await ask(agent, "status", language="hi", limit=2)
        assert [it["job"] for it in page["jobs"]] == [TRAINS, QUEUED]
        assert page["next_after"]
        (trains,) = (await ask(agent, "status", job=TRAINS))["jobs"]
        assert (trains["state"], trains["stage"]) == ("running", "train")
        assert 0 < trains["percent"] <= 100 and trains["next"] == f"wait with job={TRAINS}"
        failed = await ask(agent, "wait", job=FAILED)
        assert failed["state"] == "failed" and "--map text=COLUMN" in failed["error"]
        assert "retry the job" in failed["next"]
        await _results(agent)
        assert "reads no paths" in await refused(
            agent, "transcribe", language="hi", audio_path="/a"
        )
        said = await refused(agent, "transcribe", job=QUEUED, audio_base64=_sound())
        assert "has no model yet" in said
        assert "no model of hi is promoted" in await refused(
            agent, "transcribe", language="Hindi", audio_base64=_sound()
        )
        kept = await ask(agent, "promote", job=BETTER, confirm=True)
        assert kept["promoted"] is False and BETTER in person.asked[0]
        said = await refused(agent, "promote", job="five-epochs", confirm=True)
        assert said == f"job: 'five-epochs' may mean another job later; give its id {BETTER}"
        assert len(person.asked) == 1
        corpus = write_corpus(folder / "clips.csv")
        given = {"language": "Hindi", "corpus": str(corpus), "base_model": "demo/whisper-base"}
        checked = await ask(agent, "check_corpus", **given)
        assert checked["splits"]["train"]["clips"] == 2 and checked["quick"] is True
        seen = await ask(agent, "forecast", **given)
        assert seen["clips"] == {"train": 2, "test": 1} and seen["train_hours"] > 0
        made = await ask(agent, "submit", **given, settings=["train.epochs=2"], name="own")
        assert (await ask(agent, "cancel", job="own"))["state"] == "cancelled"
        assert (await ask(agent, "retry", job=made["job"]))["state"] == "queued"
        await _terms(agent)


async def _terms(agent: Client) -> None:
    names = [f"Ortsname {it}" for it in range(101)]
    made = await ask(agent, "add_terms", language="German", terms=["Zürich", *names])
    totals = [{"name": "de", "terms": 102, "damaged": None}]
    assert (made["added"], made["glossaries"]) == (102, totals)
    assert (await ask(agent, "glossary"))["glossaries"] == totals
    page = await ask(agent, "glossary", language="de", containing="ortsNAME")
    assert page["terms"] == names[:100] and page["next_offset"] == 100
    page = await ask(agent, "glossary", language="de", containing="ortsNAME", offset=100)
    assert page["terms"] == names[100:] and page["next_offset"] is None
    said = await refused(agent, "add_terms", language="de", terms=["good", "a\nb"])
    assert said == "term 2: the control character U+000A; remove it"


async def _results(agent: Client) -> None:
    told = await ask(agent, "report", job=BETTER, clips=3)
    base, delivered = told["base"], told["delivered"]
    assert base["wer"] > delivered["wer"] and delivered["clips"] == CLIPS
    low, high = delivered["wer_interval"]
    assert low <= delivered["wer"] <= high
    errors = [it["errors"] for it in told["worst_clips"]]
    assert len(errors) == 3 and errors == sorted(errors, reverse=True) and errors[-1] > 0
    assert all(it["reference"] != it["tuned"] for it in told["worst_clips"])
    assert told["page"] == f"/api/jobs/{BETTER}/report"
    compared = await ask(agent, "compare", jobs=[BASELINE, BETTER])
    assert compared["clips"] == CLIPS and compared["jobs"][1]["change"]["fewer_errors"] > 0
    assert compared["settings"]["train.epochs"] == ["3", "5"]
    best = (await ask(agent, "models"))["best"]
    assert [(it["language"], it["job"]) for it in best] == [("hi", BETTER)]


def _sound() -> str:
    return base64.b64encode(b"RIFF").decode()


async def _from_another_machine(url: str) -> None:
    async with away(WebApi(url, "see")) as backend, Client(make_server(backend)) as agent:
        told = await ask(agent, "report", job=BETTER, clips=0)
        assert told["page"] == f"{url}/api/jobs/{BETTER}/report" and told["worst_clips"] == []
        # Paths are those of the service's machines.
        said = await refused(agent, "submit", language="hi", corpus="clips.csv")
        assert said.startswith("ben may only view")
    async with away(WebApi(url, "other")) as backend, Client(make_server(backend)) as agent:
        said = await refused(agent, "status")
        assert said == f"{url}/api: Incorrect API key; set LORAJOB_API_KEY"
    async with away(WebApi("http://127.0.0.1:1")) as backend, Client(make_server(backend)) as agent:
        said = await refused(agent, "status")
        assert said.startswith("http://127.0.0.1:1/api is unavailable: ")
        assert said.endswith("; check LORAJOB_URL")


def test_an_agent_works_over_http_with_a_key(web: tuple[str, WebService], tmp_path: Path) -> None:
    url, service = web
    asyncio.run(_from_another_machine(url))
    asyncio.run(_tools_over_http(url, tmp_path))
    lines = [json.loads(it) for it in service.audit.path.read_text("utf-8").splitlines()]
    assert [(it["what"], it["who"]) for it in lines] == [
        ("submit", "ana"),
        ("cancel", "ana"),
        ("retry", "ana"),
        ("glossary", "ana"),
    ]


async def _a_viewer(url: str, corpus: Path) -> None:
    async with over_http(url, "see", mode="legacy") as agent:
        assert len((await ask(agent, "status"))["jobs"]) == 5
        for tool, given in (
            ("submit", {"language": "hi", "corpus": str(corpus)}),
            ("cancel", {"job": TRAINS}),
            ("retry", {"job": FAILED}),
            ("promote", {"job": BETTER, "confirm": True, "force": True}),
        ):
            assert await refused(agent, tool, **given) == (
                "ben may only view; a key with the role submit is needed"
            )


def test_a_view_key_reads_only_and_a_browser_is_refused(
    web: tuple[str, WebService], tmp_path: Path
) -> None:
    url, service = web
    asyncio.run(_a_viewer(url, write_corpus(tmp_path / "clips.csv")))
    assert not service.audit.path.exists()
    with httpx2.Client(base_url=url, headers=FORM) as http:
        for key, status in (("", 401), ("Bearer other", 401), ("Bearer see", 200)):
            headers = {"Authorization": key} if key else {}
            assert http.get("/mcp", headers=headers).status_code in (400, status)
            answer = http.post("/mcp", json=MESSAGE, headers=headers)
            assert (answer.status_code == 401) == (status == 401), answer.text
        for origin in ("http://other.example", "http://[", "null"):
            foreign = {"Authorization": "Bearer send", "Origin": origin}
            assert http.post("/mcp", json=MESSAGE, headers=foreign).status_code == 403
        session = service.access.log_in("send")
        assert session is not None
        cookie = {"Cookie": f"{service.access.cookie}={session}"}
        assert http.post("/mcp", json=MESSAGE, headers=cookie).status_code == 403
        assert http.get("/mcp", headers=cookie).status_code == 401


HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("status", {"job": "../../etc/passwd"}, "job: has a slash or a control character"),
    ("status", {"job": ".."}, "job: names no job"),
    ("report", {"job": "\x1b]0;title\x07"}, "job: has a slash or a control character"),
    ("wait", {"job": "a" * 1_000_000}, "job: string should have at most 200 characters"),
    ("wait", {"job": "hi-1a2b3c4d", "seconds": 1e9}, "seconds: input should be less than"),
    ("submit", {"language": "hi", "corpus": "/a\x00b"}, "corpus: has a control character"),
    ("submit", {"language": "hi", "corpus": "x" * 1_000_000}, "corpus: string should have"),
    (
        "submit",
        {"language": "hi", "corpuss": "/a"},
        "unknown argument 'corpuss'; it takes",
    ),
    ("submit", {"corpus": "/a"}, "language: field required"),
    ("submit", {"language": "hi", "settings": ["train.epoch=2"]}, "epochs"),
    ("forecast", {"language": "Hindii"}, "Hindii"),
    ("check_corpus", {"language": "hi", "corpus": "~no-such-user/x"}, "home of an unknown user"),
    ("compare", {"jobs": ["one"]}, "jobs: list should have at least 2 items"),
    ("transcribe", {"language": "hi"}, "audio_path, audio_base64: give one of them"),
    ("transcribe", {"job": "x", "audio_path": "no\nfile"}, "is not a file"),
    ("transcribe", {"job": "x", "audio_base64": "%%%"}, "audio_base64: is not base64"),
    ("promote", {"job": "hi-1a2b3c4d"}, "hi-1a2b3c4d"),
    ("drop\ntables", {}, "is not a tool; the tools are languages"),
]


async def _beside_the_service(env: dict[str, str], corpus: Path) -> None:
    async with over_stdio(env) as agent:
        tools = {it.name: it for it in (await agent.list_tools()).tools}
        assert tools.keys() == NAMES == {fn.__name__.removesuffix("_tool") for fn, _, _ in TOOLS}
        for tool in tools.values():
            jsonschema.Draft202012Validator.check_schema(tool.input_schema)
            assert tool.output_schema is not None and tool.description and tool.title
        changes = {it.name for it in tools.values() if not it.annotations.read_only_hint}
        assert changes == {"submit", "cancel", "retry", "promote", "add_terms"}
        assert tools["promote"].annotations.destructive_hint
        assert tools["submit"].annotations.destructive_hint is False
        about = tools["submit"].input_schema["properties"]["language"]["description"]
        assert "Code or English name" in about
        for tool, given, said in HOSTILE:
            assert said in await refused(agent, tool, **given), (tool, said)
        found = await ask(agent, "languages", search="hindi")
        assert [it["code"] for it in found["languages"]] == ["hi"]
        pages = await ask(agent, "languages", limit=10, offset=10)
        assert pages["next_offset"] == 20 and len(pages["languages"]) == 10
        # A relative path is that of the process.
        given = {"language": "hi", "corpus": corpus.name, "base_model": "demo/whisper-base"}
        made = await ask(agent, "submit", **given)
        (shown,) = (await ask(agent, "status", job="@last"))["jobs"]
        assert (shown["job"], shown["corpus"]) == (made["job"], str(corpus))
        assert "`lorajob up`" in shown["next"]
        assert "queued" in await refused(agent, "promote", job=made["job"], confirm=True)


def test_an_agent_works_beside_the_service_and_hostile_arguments_end_in_one_line(
    redis: Redis, redis_server: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"home": tmp_path, "artifacts": tmp_path / "jobs"}
    env = environment(**places, redis_url=url_of(redis_server))
    corpus = write_corpus(tmp_path / "clips.csv")
    monkeypatch.chdir(tmp_path)
    asyncio.run(_beside_the_service(env, corpus))
    assert not (tmp_path / "web" / "access.json").exists()


def test_a_program_that_only_opens_urls_promotes_with_confirm() -> None:
    urls = ElicitationCapability(url=UrlElicitationCapability())
    context: Any = SimpleNamespace(client_capabilities=ClientCapabilities(elicitation=urls))
    for confirm in (False, True):
        found = asyncio.run(ask_person(context, "hi-1a2b3c4d", False, confirm))
        assert isinstance(found, Agreement) and found.promote is confirm


BLOCKED = """
import pathlib, sys, time
from lorajob.cli.main import main
from lorajob.server.web import api_fleet
def wait_long():
    pathlib.Path("begun").touch()
    time.sleep(3600)
api_fleet.known_languages = wait_long
sys.exit(main(["mcp"]))
"""
CALL = {"name": "languages", "arguments": {}}
FIRST = {"protocolVersion": "2025-06-18", "capabilities": {}}
FIRST |= {"clientInfo": {"name": "agent", "version": "1"}}
HELLO = (
    {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": FIRST},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
)


@pytest.mark.parametrize(("number", "code"), [(None, 0), (signal.SIGINT, 130)])
def test_the_process_ends_when_the_agent_leaves_or_ctrl_c_while_a_tool_runs(
    number: int | None, code: int, tmp_path: Path
) -> None:
    lines = [*HELLO, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": CALL}]
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(home=tmp_path),
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr
        try:
            process.stdin.write("".join(json.dumps(it) + "\n" for it in lines).encode())
            process.stdin.flush()
            wait_for(lambda: (tmp_path / "begun").exists() or process.poll() is not None)
            if number is None:
                process.stdin.close()
            else:
                process.send_signal(number)
            assert process.wait(LONG_SECONDS) == code
            told = process.stdout.read().splitlines()
            assert all(json.loads(it)["jsonrpc"] == "2.0" for it in told)
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()


@asynccontextmanager
async def _broken(answer: httpx2.Response) -> AsyncIterator[Client]:
    """An agent of an API that gives this answer to everything."""
    transport = httpx2.MockTransport(lambda request: answer)
    http = httpx2.AsyncClient(transport=transport, base_url=ROOT)
    async with http, Client(make_server(Backend(http, shares_files=True))) as agent:
        yield agent


async def _with_a_fault(answer: httpx2.Response) -> str:
    async with _broken(answer) as agent:
        return await refused(agent, "status")


def test_a_fault_of_our_own_is_one_line_with_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = asyncio.run(_with_a_fault(httpx2.Response(200, json={"wrong": 1})))
    assert said == "status: lorajob failed, which is a fault of its own; its log says why"
    (record,) = [it for it in caplog.records if it.levelno == logging.ERROR]
    assert record.exc_info is not None and "KeyError" in caplog.text
    said = asyncio.run(_with_a_fault(httpx2.Response(502, text="<html>")))
    assert "answers 502 without JSON; is it a `lorajob web`?" in said


async def _a_file(path: Path, uploads: list[bytes]) -> dict[str, Any]:
    async def hear(request: httpx2.Request) -> httpx2.Response:
        uploads.append(await request.aread())
        assert request.url.path == "/api/jobs/hi-1a2b3c4d/transcribe"
        parts = [{"start": 0.0, "end": 1.5, "text": "नमस्ते"}]
        found = {"job": "hi-1a2b3c4d", "text": "नमस्ते", "seconds": 1.5, "parts": parts}
        return httpx2.Response(200, json=found)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(hear), base_url=ROOT)
    async with http, Client(make_server(Backend(http, shares_files=True))) as agent:
        return await ask(agent, "transcribe", job="hi-1a2b3c4d", audio_path=str(path))


def test_a_file_of_this_machine_is_sent_whole(tmp_path: Path) -> None:
    path, uploads = tmp_path / "a b.wav", list[bytes]()
    path.write_bytes(bytes(range(256)) * 1000)
    told = asyncio.run(_a_file(path, uploads))
    assert (told["text"], told["parts"]) == ("नमस्ते", [])
    assert path.read_bytes() in uploads[0] and b'filename="a b.wav"' in uploads[0]


def test_audio_as_base64_fits_a_request_over_http() -> None:
    assert len(base64.b64encode(bytes(MOST_AUDIO_BYTES))) < (4 << 20) - 4096


def test_without_the_package_mcp_the_path_says_what_to_install(
    redis: Redis, redis_server: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lorajob.server.agents.door", None)
    settings = redis_server.model_copy(update={"home": tmp_path} | KEYS)
    service = open_service(settings)
    headers = {"Authorization": "Bearer send"}
    with TestClient(create_web_app(service), headers=headers) as client:
        answer = client.post("/mcp", json=MESSAGE)
    assert answer.status_code == 404 and "pip install 'lorajob[mcp]'" in answer.text
