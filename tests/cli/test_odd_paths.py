"""Paths with quotes, backslashes and bytes that are not UTF-8."""

import subprocess
from pathlib import Path

import pytest

from lorajob.client.requests import check_base_model
from lorajob.errors import UsageError
from lorajob.worker.stack.redis_server import find_server, redis_configuration
from tests.support.ports import free_port


def test_redis_starts_in_a_folder_with_quote_and_backslash(tmp_path: Path) -> None:
    folder = tmp_path / 'a"b\\c d'
    folder.mkdir()
    text = redis_configuration(folder, free_port(), "secret")
    with subprocess.Popen(
        [find_server(), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(text)
        server.stdin.close()
        lines = []
        for line in server.stdout:
            lines.append(line)
            if "Ready to accept connections" in line:
                break
        server.terminate()
    assert any("Ready to accept connections" in line for line in lines), lines


def test_a_path_that_is_not_utf_8_is_one_line() -> None:
    with pytest.raises(UsageError, match="is not UTF-8; rename it"):
        check_base_model("/models/\udcff")
