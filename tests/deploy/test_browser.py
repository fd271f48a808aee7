"""Flower in a real browser: what its stock pages show of jobs, after their scripts have run."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tests.support.browser import find_browser, page
from tests.support.flower import SHOW_PROGRESS, fetch, tasks_of
from tests.support.service import FLOWER_PASSWORD, wait_for

RUNNING = "0f0f0f0f-0000-4000-8000-000000000061"
TRAINED = "hi-00000061 (Hindi, train)"


class Table(HTMLParser):
    """The cells of a page's tables, row by row, and its headings."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = False
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += data

    def cells(self) -> list[list[str]]:
        return [[" ".join(cell.split()) for cell in row] for row in self.rows]


@pytest.fixture(scope="module")
def flower(service):
    """A finished job and one that trains; the url by which a browser signs in."""
    find_browser()
    record = service.new_job("hi-00000061")
    service.send(record)
    service.wait_until(record.id, "succeeded")
    env = os.environ | {"LORAJOB_HOME": str(service.settings.home)}
    env["LORAJOB_ARTIFACTS"] = str(service.settings.jobs)
    command = [sys.executable, "-c", SHOW_PROGRESS, record.id, RUNNING]
    subprocess.run(command, env=env, check=True, timeout=240)
    states = [task["state"] for task in tasks_of(service, record.id).values()]
    wait_for(lambda: states == ["SUCCESS"] * 4 or refresh(states, service, record.id))
    wait_for(lambda: RUNNING in json.loads(fetch(service, "api/tasks")))
    return service.info.flower_url.replace("http://", f"http://lorajob:{FLOWER_PASSWORD}@")


def refresh(states: list[str], service, job_id: str) -> bool:
    states[:] = [task["state"] for task in tasks_of(service, job_id).values()]
    return False


def test_the_tasks_page_shows_job_language_stage_progress_and_wer(flower, tmp_path):
    picture = tmp_path / "tasks.png"
    rows: list[list[str]] = []
    running: list[list[str]] = []

    # The page fetches its rows after it has loaded, which a busy machine may not do in time. It
    # shows the 15 newest. The task that runs has no time of receipt, so it is the last of all.
    def complete() -> bool:
        rows[:] = Table(page(f"{flower}tasks", picture)).cells()
        shown = Table(page(f"{flower}tasks?state=PROGRESS")).cells()
        running[:] = [row for row in shown if row and row[-1].startswith(RUNNING)]
        return bool(running) and sum(row[:1] == [TRAINED] for row in rows) == 1

    wait_for(complete, 180)
    heads = next(row for row in rows if "State" in row)
    assert [head.lower() for head in heads[:4]] == ["args", "name", "state", "result"]
    shown = {row[1]: row for row in rows if row[:1] and row[0].startswith("hi-00000061")}
    assert shown.keys() == {f"lorajob.{s}" for s in ("preprocess", "train", "evaluate", "convert")}
    assert shown["lorajob.train"][0] == TRAINED
    assert shown["lorajob.evaluate"][2] == "SUCCESS"
    assert "'tuned_wer': 50.0" in shown["lorajob.evaluate"][3]
    assert running[0][2] == "PROGRESS"
    assert running[0][3] == "hi train 5/180 (2 %), loss 2.125, 61 s left"
    assert picture.stat().st_size > 10_000


def test_a_tasks_page_says_the_same(flower, service):
    uuid = next(
        uuid
        for uuid, task in tasks_of(service, "hi-00000061").items()
        if task["name"] == "lorajob.evaluate"
    )
    text = " ".join(re.sub(r"<[^>]*>", " ", page(f"{flower}task/{uuid}")).split())
    assert "hi-00000061 (Hindi, evaluate)" in text
    assert "language=hi stage=evaluate base=openai/whisper-small" in text
    assert "'base_wer': 200.0" in text.replace("&#39;", "'")


def test_the_workers_page_shows_both_workers(flower):
    document = page(f"{flower}workers")
    queues = set(re.findall(r'title="(cpu|gpu)-\w+@', document))
    assert queues == {"cpu", "gpu"} and "Online" in document
