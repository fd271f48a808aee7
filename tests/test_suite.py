"""`make test` runs a few failed tests once more, alone, and names those that pass then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "support" / "suite.py"
GOOD = "def test_good(): pass\n"
BAD = "def test_bad_{n}(): assert False\n"
FIRST_TIME_ONLY = """
from pathlib import Path

def test_unstable():
    mark = Path(__file__).with_name("mark")
    seen = mark.exists()
    mark.touch()
    assert seen, "the first time"
"""


def suite(folder: Path, tests: str) -> tuple[int, str]:
    """Exit code and output of the suite `tests`."""
    (folder / "pytest.ini").touch()
    (folder / "test_all.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, str(SUITE), "-p", "xdist"],
        cwd=folder,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


def test_a_test_that_passes_alone_is_named_and_fails_nothing(tmp_path: Path) -> None:
    code, output = suite(tmp_path, GOOD + FIRST_TIME_ONLY)
    assert code == 0
    assert "AssertionError: the first time" in output
    assert "1 failed, 1 passed" in output
    unstable = [line for line in output.splitlines() if line.startswith("UNSTABLE")]
    name = "test_all.py::test_unstable"
    assert unstable == [f"UNSTABLE: {name} failed beside other tests, passed alone; mend it"]


@pytest.mark.parametrize(("bad", "runs"), [(3, 2), (4, 1)])
def test_a_test_that_fails_again_or_many_fail_the_run(bad: int, runs: int, tmp_path: Path) -> None:
    code, output = suite(tmp_path, GOOD + "".join(BAD.format(n=n) for n in range(bad)))
    assert code == 1
    assert "UNSTABLE" not in output
    assert output.count("test session starts") == runs


def test_one_unstable_test_does_not_excuse_another(tmp_path: Path) -> None:
    code, output = suite(tmp_path, FIRST_TIME_ONLY + BAD.format(n=1))
    assert code == 1
    assert "1 failed, 1 passed" in output
    assert "UNSTABLE" not in output


def test_a_suite_that_passes_or_cannot_start_is_run_once(tmp_path: Path) -> None:
    assert suite(tmp_path, GOOD)[0] == 0
    code, output = suite(tmp_path, "import missing_package")
    assert code == 2
    assert output.count("test session starts") == 1
