"""examples/first_language.ipynb: its cells run in a kernel, as Jupyter runs them.

A tiny base model and four clips take the place of the notebook's own, so that it takes seconds.
"""

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "first_language.ipynb"
SETTINGS = """
from pathlib import Path

from functools import partialmethod

import altair
from faster_whisper import WhisperModel

import lorajob

# An untrained model trips every threshold of faster-whisper, which takes seconds for each clip.
few = partialmethod(WhisperModel.transcribe, beam_size=1, temperature=0.0, max_new_tokens=12)
WhisperModel.transcribe = few
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
SECONDS = 900  # for one cell


def notebook() -> nbformat.NotebookNode:
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    return book


def code_cells(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(it.text for it in cell.outputs if it.get("name") == "stdout")


def test_the_notebook_holds_no_output_of_a_machine() -> None:
    for cell in code_cells(notebook()):
        assert cell.outputs == [] and cell.execution_count is None
    text = NOTEBOOK.read_text("utf-8")
    assert "/home/" not in text and "/work/" not in text


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a user who has just installed lorajob."""
    for name in [name for name in os.environ if name.startswith(("JUPYTER", "IPYTHON"))]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("LORAJOB_")}
    return environ | {"HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(
    brief_whisper: Path, tmp_path: Path, fresh: dict[str, str]
) -> None:
    corpus = shutil.copytree(ROOT / "examples" / "speech", tmp_path / "speech") / "manifest.tsv"
    book = notebook()
    settings, *others = code_cells(book)
    assert settings.metadata.tags == ["settings"]
    compile(settings.source, "settings", "exec")
    settings.source = SETTINGS.format(base=str(brief_whisper), corpus=str(corpus))
    client = NotebookClient(book, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=fresh)
    said = [
        "".join(it.text for it in cell.outputs if it.get("name") == "stdout") for cell in others
    ]
    faults = [it for cell in others for it in cell.outputs if it.output_type == "error"]
    assert faults == []
    assert "{'train': 2, 'dev': 1, 'test': 1}" in said[0]
    scores = Path(tmp_path, "work", "first", "evaluate", "metrics.json").read_bytes()
    delivered = json.loads(scores)["delivered"]["wer"]
    (line,) = [it for it in said[2].splitlines() if it.startswith("delivered")]
    assert f" {delivered:.1f} % word errors" in line
    assert said[3].startswith("said ") and "tuned" in said[3]
    charts = [it for it in others[4].outputs if it.output_type == "execute_result"]
    assert len(charts) == 1 and "vega" in charts[0].data["text/html"]
    assert Path(said[5].strip()).read_text("utf-8").startswith("<!doctype html>")
    assert [line.split()[0] for line in said[6].splitlines()] == ["said", "heard", "faster-whisper"]
    first, second, *more = said[7].splitlines()
    assert first == f"first    {delivered:6.1f} %" and second.startswith("second ")
    assert more[-1] == "train.rank [4, 8]"
    assert (tmp_path / "work" / "second" / "convert" / "model" / "model.bin").is_file()
