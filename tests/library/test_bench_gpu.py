"""bench/gpu on a CPU, with the smallest model: each kind of part runs, and the table is made."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = (
    *("card", "lorajob-smallest", "fair-smallest", "recipe-smallest", "precision-smallest"),
    "decode-smallest",
)


def test_the_gpu_benchmark_runs_on_a_cpu_and_measures_no_part_twice(
    whisper_base: Path, tmp_path: Path
) -> None:
    command = [str(ROOT / "bench" / "gpu" / "run.sh"), "--out", str(tmp_path / "out")]
    command += ["--work", str(tmp_path / "work"), "--tokenizer", str(whisper_base)]
    command += ["--seconds", "0.5", "--clips", "64"]
    command += [word for part in PARTS for word in ("--part", part)]
    env = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    for run in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("measured before") == run * len(PARTS)
    rows = {it.stem: json.loads(it.read_text()) for it in (tmp_path / "out").glob("*.json")}
    assert set(rows) == set(PARTS)
    for name in PARTS[1:4]:
        assert rows[name]["clips"] > 0 and rows[name]["seconds"] > 0
        assert f"| {name} |" in (tmp_path / "out" / "table.md").read_text()
    assert rows["precision-smallest"]["gradient_off"]["bf16"] < 0.05


def test_a_row_of_another_recipe_or_code_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench" / "gpu"))
    run = importlib.import_module("run")
    before = run.code_digest()
    recipe = tmp_path / "seed_recipe.py"
    recipe.write_bytes(run.RECIPE.read_bytes())
    monkeypatch.setattr(run, "RECIPE", recipe)
    assert run.code_digest() == before
    recipe.write_text("BATCH = 16\n")
    assert run.code_digest() != before
    assert {"lorajob-whisper-base", "recipe-whisper-base"} <= run.PARTS.keys()
    assert "lorajob-whisper-base" in run.DEFAULT  # the packages are here


def test_the_real_weights_of_whisper_base_are_a_shape(
    whisper_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench" / "gpu"))
    parts = importlib.import_module("parts")
    bench = parts.Bench(tmp_path, tmp_path, whisper_base, 0.5, 8)
    assert bench.model("whisper-base") == whisper_base
