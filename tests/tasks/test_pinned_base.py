"""A base model on the Hub is pinned to a commit when its job is submitted."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from lorajob.errors import UsageError
from lorajob.spec import build_spec
from lorajob.storage import hub
from lorajob.storage.hub import hub_commit
from lorajob.tasks import jobs as jobs_module
from lorajob.tasks.jobs import Jobs
from tests.support.batches import specs

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def answer(monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Any]) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", ask)


def refusal(kind: type[Exception]) -> Callable[..., Any]:
    def ask(*_: object, **__: object) -> None:
        response = SimpleNamespace(headers={}, request=None, status_code=404)
        raise kind("404", response=response)  # type: ignore[call-arg]

    return ask


@pytest.mark.parametrize(
    ("kind", "said"),
    [(RepositoryNotFoundError, "no model 'x/y'"), (GatedRepoError, "is gated.*HF_TOKEN")],
)
def test_what_the_hub_refuses_is_one_line_of_submit(
    kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, refusal(kind))
    with pytest.raises(UsageError, match=said):
        hub_commit("x/y")


def test_a_hub_that_does_not_answer_leaves_the_commit_to_the_first_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("no network")

    answer(monkeypatch, broken)
    assert hub_commit("x/y") is None
    silent = threading.Event()
    monkeypatch.setattr(hub, "ASKING_SECONDS", -0.9)
    answer(monkeypatch, lambda *_, **__: silent.wait(600))
    began = time.monotonic()
    assert hub_commit("x/y") is None
    assert time.monotonic() - began < 60
    silent.set()


def test_the_commit_is_in_the_spec(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fake(name: str, revision: str | None) -> str:
        asked.append((name, revision))
        return COMMIT

    monkeypatch.setattr(jobs_module, "hub_commit", fake)
    manifest = tmp_path / "m.tsv"
    manifest.write_text("audio\ttext\na.wav\tone\nb.wav\ttwo\n")
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.wav").touch()
    spec = build_spec({"language": "en", "corpus": str(manifest), "base_model": "x/y"})
    for _ in range(2):
        job_id = jobs.submit(spec)
    written = json.loads((jobs.settings.jobs / job_id / "spec.json").read_bytes())
    assert written["base_revision"] == COMMIT
    assert asked == [("x/y", None)]


def test_a_base_folder_is_checked_again_after_a_file_of_it_was_replaced(
    jobs: Jobs, data: Path, tmp_path: Path, whisper_base: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in whisper_base.iterdir():
        (base / path.name).symlink_to(path.resolve())
    (spec,) = specs(data, "hi", base_model=str(base))
    jobs.check(spec)
    config = json.loads((base / "config.json").read_bytes())
    (base / "config.json").unlink()
    (base / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(UsageError, match="bert"):
        jobs.check(spec)
    # It stays refused.
    with pytest.raises(UsageError, match="bert"):
        jobs.check(spec)
