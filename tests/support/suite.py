"""All tests, and once more alone those few that failed: `python tests/support/suite.py ARGUMENTS`.

A test that fails beside other tests and passes alone is unstable. It is named at the end and does
not fail the run. A test that fails alone, too, fails the run, and so do more than MOST failures.
"""

import json
import subprocess
import sys
from pathlib import Path

MOST = 3  # failed tests that are run once more
FAILED = 1  # pytest's exit code for "tests were run, some failed"


def main(arguments: list[str]) -> int:
    """Run pytest in the current folder with `arguments`. Returns the exit code."""
    code = _pytest([*arguments, "--cache-clear"])
    failed = _failed() if code == FAILED else []
    if not 0 < len(failed) <= MOST:
        return code
    print(f"\n{len(failed)} failed. Once more, alone:", flush=True)
    code = _pytest([*arguments, "-n", "0", "--last-failed", "--last-failed-no-failures=none"])
    if code == 0:
        for test in failed:
            print(f"UNSTABLE: {test} failed beside other tests, passed alone; mend it", flush=True)
    return code


def _pytest(arguments: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments]).returncode


def _failed() -> list[str]:
    """The tests that failed in the run before, as pytest's cache names them."""
    path = Path(".pytest_cache/v/cache/lastfailed")
    return sorted(json.loads(path.read_text("utf-8"))) if path.exists() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
