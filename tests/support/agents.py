"""An agent that uses lorajob's tools: the client of the package mcp."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult, TextContent

from tests.support.command import LORAJOB
from tests.support.service import LONG_SECONDS


@asynccontextmanager
async def over_stdio(env: dict[str, str]) -> AsyncIterator[Client]:
    """An agent that starts `lorajob mcp`, and that cannot ask a person."""
    program = StdioServerParameters(command=LORAJOB[0], args=[*LORAJOB[1:], "mcp"], env=env)
    with Path(os.devnull).open("w") as log:
        async with Client(stdio_client(program, errlog=log)) as client:
            yield client


@asynccontextmanager
async def over_http(url: str, key: str, **options: Any) -> AsyncIterator[Client]:
    """An agent of a `lorajob web`."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=LONG_SECONDS) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), **options) as client,
    ):
        yield client


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer of a tool."""
    found = await client.call_tool(tool, arguments)
    assert not found.is_error, found.content
    assert found.structured_content is not None
    return found.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """The error of a tool, which is one short line."""
    found = await client.call_tool(tool, arguments)
    assert found.is_error, found.structured_content
    (content,) = found.content
    assert isinstance(content, TextContent)
    assert len(content.text.splitlines()) == 1 and len(content.text) < 2100
    assert content.text.isprintable()
    return content.text


class Person:
    """Answers what an agent's program asks, and keeps the questions."""

    def __init__(self, agrees: bool) -> None:
        self._agrees = agrees
        self.asked: list[str] = []

    async def __call__(self, context: object, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        return ElicitResult(action="accept", content={"promote": self._agrees})
