"""Small corpora and specs of several languages, and the jobs of a Redis without workers."""

from pathlib import Path

import pytest
from redis import Redis

from lorajob.spec import build_spec
from lorajob.tasks.jobs import Jobs
from lorajob.worker.settings import Settings
from tests.support.command import environment, url_of


@pytest.fixture
def jobs(redis_server: Settings, redis: Redis, tmp_path: Path) -> Jobs:
    return Jobs(redis_server.model_copy(update={"artifacts": tmp_path / "home" / "jobs"}))


@pytest.fixture
def env(redis_server: Settings, redis: Redis, tmp_path: Path) -> dict[str, str]:
    return environment(redis_url=url_of(redis_server), home=tmp_path / "home")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for code, text in {"hi": "नमस्ते", "mr": "नमस्कार", "ta": "வணக்கம்"}.items():
        (folder / f"{code}.tsv").write_text(f"audio\ttext\na.wav\t{text}\n", "utf-8")
    return folder


def specs(data: Path, *codes: str, **settings):
    return [
        build_spec({"language": code, "corpus": str(data / f"{code}.tsv"), **settings})
        for code in codes
    ]
