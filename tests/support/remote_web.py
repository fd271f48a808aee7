"""A `lorajob web` in a process of its own, for clients of other machines."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lorajob.worker.settings import Settings
from tests.support import command
from tests.support.command import url_of
from tests.support.fleet import last_words
from tests.support.service import LONG_SECONDS


@dataclass(frozen=True)
class Web:
    """Its url, and the settings of its machine. Keys: `send` of ana, and `see` of ben."""

    url: str
    settings: Settings


@pytest.fixture(scope="session")
def web(redis_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    home = tmp_path_factory.mktemp("web-home")
    settings = redis_server.model_copy(update={"home": home, "artifacts": home / "jobs"})
    env = command.environment(
        home=home,
        artifacts=home / "jobs",
        redis_url=url_of(redis_server),
        submit_keys="ana=send",
        view_keys="ben=see",
    )
    log = home / "web.log"
    with log.open("wb") as errors:
        process = command.start("web", "--port", "0", env=env, stderr=errors)
    assert process.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    read = process.stdout.readline
    threading.Thread(target=lambda: lines.put(read()), daemon=True).start()
    try:
        try:
            line = lines.get(timeout=LONG_SECONDS)
        except queue.Empty:
            line = ""
        assert line.startswith("Pages at http://127.0.0.1:"), last_words(log)
        yield Web(line.split()[2].rstrip(";"), settings)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
