"""What a few tests need and a plain machine may lack: Chromium, iproute2, root, openssl."""

import os
import shutil
from typing import NoReturn

import pytest

# Read when the tests are collected: the fixture `home` clears every LORAJOB_ variable.
EVERYTHING = os.environ.get("LORAJOB_TEST_ALL") == "1"


def missing(what: str) -> NoReturn:
    """Skip the test because `what` is missing; fail it if LORAJOB_TEST_ALL=1 says to run all."""
    if EVERYTHING:
        pytest.fail(f"{what}; LORAJOB_TEST_ALL=1 allows no skip", pytrace=False)
    pytest.skip(what)


def openssl() -> str:
    """The path of the program openssl, which makes passwords and certificates."""
    return shutil.which("openssl") or missing("needs the program openssl: install that package")
