"""The pages of `lorajob web` in a real browser: a server in this process, and what a page may not
do.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import uvicorn

from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import WebService, open_service
from lorajob.worker.settings import Settings
from tests.support.browser import QUIET, find_browser
from tests.support.service import LONG_SECONDS, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request

# A microphone that beeps, and the permission to use it.
MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
AXE = Path(__file__).parents[1] / "data" / "axe.min.js"
Scheme = Literal["light", "dark"]


@dataclass
class Pages:
    """A running server, a page that is signed in, and what the page did wrong."""

    url: str
    page: "Page"
    faults: list[str] = field(default_factory=list)

    def open(self, path: str, axe: bool = True) -> None:
        """Go to a page, wait for its charts, and check it, with `axe` also for accessibility."""
        answer = self.page.goto(self.url + path)
        assert answer is not None and answer.ok, (path, answer and answer.status)
        self.settle()
        self.check(axe)

    def settle(self) -> None:
        """Wait until all charts are drawn."""
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('[data-charts]')].every((it) => it.dataset.drawn)"
        )

    def check(self, axe: bool = True) -> None:
        """No error, no request to elsewhere, nothing wider than the window, nothing that axe finds
        serious.
        """
        path = self.page.url.removeprefix(self.url)
        assert not self.faults, (path, self.faults)
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{path} is {wide} pixels too wide"
        # The chart of characters has squares of one size, and scrolls.
        cut = self.page.evaluate(
            "[...document.querySelectorAll('figure:not([data-name=characters]) > .chart')]"
            ".filter((it) => it.scrollWidth > it.clientWidth)"
            ".map((it) => it.parentElement.dataset.name)"
        )
        assert not cut, f"{path}: charts wider than their places: {cut}"
        if not axe:
            return
        self.page.evaluate(AXE.read_text("utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (it["id"], [node["html"][:200] for node in it["nodes"]])
            for it in found["violations"]
            if it["impact"] in ("serious", "critical")
        ]
        assert not serious, (path, serious)


@contextmanager
def web_server(settings: Settings) -> Iterator[tuple[str, WebService]]:
    """The url of a server in this process, while the block runs."""
    service = open_service(settings)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            create_web_app(service), log_config=None, ws="none", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", service
        finally:
            server.should_exit = True
            thread.join(LONG_SECONDS)


@contextmanager
def browser(url: str, password: str, widths: dict[int, Scheme]) -> Iterator[dict[int, Pages]]:
    """Windows of these widths, signed in."""
    from playwright.sync_api import sync_playwright

    # The browser runs as root, which its sandbox refuses.
    options = ["--no-sandbox", *MICROPHONE, *QUIET]
    with sync_playwright() as made:
        chromium = made.chromium.launch(executable_path=find_browser(), args=options)
        try:
            yield {
                width: _signed_in(
                    chromium.new_context(
                        viewport={"width": width, "height": 900}, color_scheme=scheme
                    ).new_page(),
                    url,
                    password,
                )
                for width, scheme in widths.items()
            }
        finally:
            chromium.close()


def _signed_in(page: "Page", url: str, password: str) -> Pages:
    pages = Pages(url, page)
    page.set_default_timeout(1000 * LONG_SECONDS)
    page.on("console", lambda it: _note_message(pages, it))
    page.on("pageerror", lambda it: pages.faults.append(str(it)))
    page.on("request", lambda it: _note_request(pages, it))
    page.goto(url)
    page.fill("#password", password)
    page.click("button.main")
    page.wait_for_selector("#jobs")
    return pages


def _note_message(pages: Pages, message: "ConsoleMessage") -> None:
    if message.type in ("error", "warning"):
        pages.faults.append(message.text)


def _note_request(pages: Pages, request: "Request") -> None:
    if not request.url.startswith((pages.url, "data:", "blob:")):
        pages.faults.append(f"a request to {request.url}")
