"""Text from outside never acts on a terminal, a log, a table or a page."""

import io
import json
import logging
from pathlib import Path

import pytest

from lorajob import logs
from lorajob.cli.format import console
from lorajob.cli.main import main
from lorajob.reporting.html import _shown
from lorajob.visible import VisibleStream, visible, visible_lines
from tests.support.command import JOB, environment, finished, job_record, run

TITLE = "\x1b]0;owned\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TITLE, "\\u001b]0;owned\\u0007"),
        ("a\nhi-1 succeeded", "a\\u000ahi-1 succeeded"),
        ("\x9b2J", "\\u009b2J"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\udcff", "\\udcff"),
        ("नमस्ते क्\u200dष שלום\u200f x", "नमस्ते क्\u200dष שלום\u200f x"),
    ],
)
def test_controls_are_shown_and_scripts_kept(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_json_keeps_its_value() -> None:
    text = json.dumps({"a": "\x9b\u2028\x1b\n"}, ensure_ascii=False)
    assert json.loads(visible_lines(text)) == {"a": "\x9b\u2028\x1b\n"}


def test_a_header_that_sets_the_title_is_one_harmless_line(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"file{TITLE},wo\x9brds\na.wav,x\n", "utf-8")
    told = run("submit", "--lang", "hi", "--corpus", str(manifest), env=environment(home=tmp_path))
    assert told.returncode in (1, 2)
    assert "\x1b" not in told.stderr and "\x07" not in told.stderr and "\x9b" not in told.stderr
    assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", ["--lang", "--corpus", "--base-model", "--set", "--nonsense"])
def test_no_argument_reaches_the_terminal_raw(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))
    manifest = tmp_path / "m.tsv"
    manifest.write_text("audio\ttext\na.wav\tb\n")
    options = {"--lang": "hi", "--corpus": str(manifest)} | {option: f"x{TITLE}y"}
    code = main(["submit", *(word for pair in options.items() for word in pair)])
    out, err = capsys.readouterr()
    assert code != 0 and len(err.splitlines()) == 1
    assert not set(out + err) & set("\x1b\x07")


def test_a_forged_record_forges_no_line_of_status(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    stages = finished("preprocess")
    stages["preprocess"] = stages["preprocess"].model_copy(update={"worker": f"gpu{TITLE}[red]"})
    record = job_record(jobs, corpus=f"/c{TITLE}\nstate      succeeded", stages=stages)
    record.save()
    told = run("status", JOB, env=environment(home=tmp_path, artifacts=jobs))
    assert "\x1b" not in told.stdout
    assert [line for line in told.stdout.splitlines() if line.startswith("state")] == [
        "state      queued"
    ]
    assert "[red]" in told.stdout


def test_tables_on_a_terminal_keep_their_colours_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    screen = console(VisibleStream(stream))  # type: ignore[arg-type]
    screen.print(f"[red]a{TITLE}b[/]")
    assert TITLE not in stream.getvalue() and "\\u001b]0;owned" in stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_line_stays_one_line(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAJOB_LOG_FORMAT", form)
    stream = io.StringIO()
    before = logging.getLogger().handlers[:]
    try:
        logs.configure(stream=stream)
        logging.getLogger("lorajob.test").warning("clip %s", f"a{TITLE}\n2026-01-01 forged\x9b")
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers[:] = before
    written = stream.getvalue()
    assert written.count("\n") == 1 and not set(written) & set("\x1b\x07\x9b")


def test_a_page_shows_controls() -> None:
    assert _shown(f"a{TITLE}\n\u202e") == "a\\u001b]0;owned\\u0007\n\\u202e"
