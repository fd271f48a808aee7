"""examples/first_language.ipynb: its cells run, one after another, as plain Python.

A tiny base model takes the place of the notebook's own, so that it runs in seconds.
"""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorajob.client import local
from lorajob.client.progress import ProgressLine
from lorajob.job.jobdir import JobDir

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "first_language.ipynb"
SETTINGS = """
from pathlib import Path

import altair
import lorajob

WORK = Path("work")
WORK.mkdir()
LANGUAGE, BASE_MODEL, CORPUS = "hi", {base!r}, {corpus!r}
SETTINGS = {{
    "in_process": True,
    "train": {{"epochs": 1, "rank": 4, "precision": "float32"}},
    "evaluate": {{"batch_size": 2}},
    "gate": {{"check": False}},
    "convert": {{"compute_types": ["float32"], "check_clips": 1}},
}}
"""


def cells(kind: str) -> list[dict[str, Any]]:
    book = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def test_the_notebook_holds_no_output_of_a_machine() -> None:
    for cell in cells("code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None
    text = NOTEBOOK.read_text("utf-8")
    assert "/home/" not in text and "/work/" not in text


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_every_cell_of_the_notebook_runs(
    tiny_whisper: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = shutil.copytree(ROOT / "examples" / "speech", tmp_path / "speech") / "manifest.tsv"
    monkeypatch.chdir(tmp_path)
    # A page and another training take seconds: the page is not drawn, and the second training gets
    # the files of the first.
    page = SimpleNamespace(write_report=lambda job, path: path.write_text("<html>"))
    monkeypatch.setitem(sys.modules, "lorajob.reporting.page", page)
    run = local._run_here

    def run_once(stage: str, job: JobDir, line: ProgressLine) -> None:
        if job.root.name == "first":
            run(stage, job, line)
        else:
            shutil.copytree(job.root.with_name("first") / stage, job.root / stage)

    monkeypatch.setattr(local, "_run_here", run_once)
    first, *others = cells("code")
    assert first["metadata"]["tags"] == ["settings"]
    compile("".join(first["source"]), "settings", "exec")
    names: dict[str, Any] = {}
    exec(SETTINGS.format(base=str(tiny_whisper), corpus=str(corpus)), names)
    for number, cell in enumerate(others, start=2):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    said = capsys.readouterr().out
    assert "{'train': 2, 'dev': 1, 'test': 1}" in said
    assert "delivered" in said and "word errors" in said
    assert names["first"].report.is_file()
    assert [row.job for row in names["comparison"].rows] == ["first", "second"]
    assert ("train.rank", [4, 8]) in names["comparison"].settings
    assert (tmp_path / "work" / "second" / "convert" / "model" / "model.bin").is_file()
