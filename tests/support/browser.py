"""A real browser without a window, for the tests that look at pages as people do."""

import base64
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support import needs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (  # no start-up pages, and nobody is called
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-gpu",
    "--disable-dev-shm-usage",
)
BUDGET_MS = 8000  # of the page's own clock, for what its scripts fetch
SECONDS = 120


def find_browser() -> str:
    """The browser's path. Skips the test without one, or fails it under LORAJOB_TEST_ALL=1."""
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    return found[0] if found else needs.missing("needs a browser: install the package chromium")


def get(url: str, user: str | None, password: str) -> str:
    """What a server answers without a browser, signed in by a `user`, if any."""
    request = urllib.request.Request(url)
    if user is not None:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    with urllib.request.urlopen(request, timeout=120) as answer:
        text: str = answer.read().decode()
    return text


def quiet_page(url: str, width: int, dark: bool = False) -> str:
    """The document after its scripts have run in a window of `width` pixels.

    Fails if the page prints to the console, where the browser also reports refused requests.
    """
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    options = ("--enable-logging=stderr", scheme, f"--window-size={width},900")
    said: list[str] = []
    document = _run(url, "--dump-dom", *options, said=said)
    assert not [line for line in said if ":CONSOLE" in line], said
    return document


def page(url: str, screenshot: Path | None = None) -> str:
    """The document after its scripts have run; a picture of it too, where asked for."""
    picture = _run(url, f"--screenshot={screenshot}") if screenshot is not None else ""
    return picture or _run(url, "--dump-dom")


def _run(url: str, what: str, *options: str, said: list[str] | None = None) -> str:
    with TemporaryDirectory() as profile:
        root = ("--no-sandbox",) if os.getuid() == 0 else ()  # it refuses to run as root with one
        command = [
            *(find_browser(), "--headless", *QUIET, *root, f"--user-data-dir={profile}"),
            *("--window-size=1600,900", f"--virtual-time-budget={BUDGET_MS}", *options, what, url),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    if said is not None:
        said += done.stderr.splitlines()
    return done.stdout
