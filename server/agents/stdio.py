"""`lorajob mcp`: the tools over standard input and output, for a program on this machine."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from lorajob import logs
from lorajob.client.remote import WebApi
from lorajob.server.agents.door import TIMEOUT
from lorajob.server.agents.rest import ROOT, Backend
from lorajob.server.agents.tools import make_server
from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import own_service
from lorajob.worker.settings import Settings


def run_stdio(settings: Settings) -> None:
    """Answer an agent until standard input ends. Standard output holds the protocol only.

    With LORAJOB_URL the tools use that server. Raises UsageError for a malformed url or key.
    """
    api = _api(settings)
    logs.configure()
    asyncio.run(_run(settings, api))


def _api(settings: Settings) -> WebApi | None:
    if settings.url is None:
        return None
    key = settings.api_key
    return WebApi(settings.url, None if key is None else key.get_secret_value())


async def _run(settings: Settings, api: WebApi | None) -> None:
    async with here(settings) if api is None else away(api) as backend:
        await make_server(backend).run_stdio_async()


@asynccontextmanager
async def here(settings: Settings) -> AsyncIterator[Backend]:
    """The API in this process, beside the service."""
    key = secrets.token_urlsafe(32)
    app = create_web_app(own_service(settings, key), agents=False)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {key}"}
    client = httpx2.AsyncClient(
        transport=transport, base_url=ROOT, headers=headers, timeout=TIMEOUT
    )
    async with app.router.lifespan_context(app), client:
        yield Backend(client, shares_files=True)


@asynccontextmanager
async def away(api: WebApi) -> AsyncIterator[Backend]:
    """The API of another machine."""
    client = httpx2.AsyncClient(base_url=f"{api.url}/api", headers=api.headers, timeout=TIMEOUT)
    async with client:
        yield Backend(client, shares_files=False)
