"""An exporter of a test's own, and what it answers."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.support.command import start
from tests.support.ports import free_port
from tests.support.service import wait_for

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class serving:
    """`lorajob metrics` as a user runs it."""

    def __init__(self, env: dict[str, str]) -> None:
        self.port = free_port()
        self.process = start("metrics", "--port", str(self.port), env=env)

    def __enter__(self) -> str:
        wait_for(lambda: self.process.poll() is not None or self.healthy())
        return f"http://127.0.0.1:{self.port}/metrics"

    def healthy(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.port}/healthz"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read() == b"ok\n"
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        _, errors = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, errors


def fetch(url: str, authorization: str | None = None) -> str:
    headers = {"Authorization": authorization} if authorization else {}
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=240
    ) as answer:
        return answer.read().decode()


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, /, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


def until(url: str, name: str, wanted: float, /, **labels: str) -> Samples:
    """Scrape until a metric has its value; answers are a moment old."""
    seen: list[Samples] = []

    def there() -> bool:
        seen.append(samples(fetch(url)))
        return value(seen[-1], name, **labels) == wanted

    wait_for(there, 20)
    return seen[-1]
