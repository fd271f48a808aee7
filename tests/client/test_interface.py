"""`import lorajob`: what it gives, how fast, with which types."""

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lorajob

ROOT = Path(__file__).parents[2]
TYPED = """
import lorajob

job = lorajob.connect("redis://host").submit("hi", "x.tar.gz", train={"epochs": 1})
reveal_type(job.wait(progress=True).scores["delivered"].wer)
reveal_type(job.transcribe("a.wav").text)
reveal_type(lorajob.connect().job("hi-1").report)
reveal_type(lorajob.train_locally("hi", "x.tar.gz").model)
reveal_type(lorajob.load_corpus("x.tar.gz", "hi").splits)
job.wait(progres=True)
"""


def test_importing_lorajob_loads_nothing_large() -> None:
    code = (
        "import sys; before = set(sys.modules); import lorajob;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "lorajob" in loaded
    assert not loaded & {"numpy", "torch", "pydantic", "redis", "celery", "click", "yaml"}


def test_every_name_of_the_interface_loads_and_is_listed() -> None:
    for name in lorajob.__all__:
        assert getattr(lorajob, name) is not None and name in dir(lorajob)
    assert set(lorajob._HOMES) == set(lorajob.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        lorajob.trian  # noqa: B018


def test_connecting_loads_no_torch() -> None:
    code = (
        "import sys; from lorajob import connect, train_locally; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_mypy_sees_the_types(tmp_path: Path) -> None:
    path = tmp_path / "typed.py"
    path.write_text(TYPED)
    # From the repository, so that its settings and its cache are used.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    types = [line.rpartition("is ")[2] for line in done.stdout.splitlines() if "Revealed" in line]
    assert types == [
        '"float"',
        '"str"',
        '"pathlib.Path"',
        '"pathlib.Path"',
        '"dict[str, int]"',
    ], done.stdout + done.stderr
    assert 'Unexpected keyword argument "progres"' in done.stdout
    assert "Found 1 error" in done.stdout


@pytest.mark.parametrize("module", ["corpus"])
def test_examples_of_docstrings_are_true(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(f"lorajob.client.{module}"))
    assert found.attempted and not found.failed


def test_the_page_shows_every_name() -> None:
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    for name in ("connect", "submit", "train_locally", "load_corpus", "JobFailedError"):
        assert f"lorajob.{name}" in page
    assert os.fspath(ROOT) not in page
