"""What a base model that cannot be downloaded means: the user's error, or an outage."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler

import pytest

from tests.support.web_server import serving

ASK = """
import sys
from lorajob.storage.hub import download_error
from huggingface_hub import snapshot_download
for name in sys.argv[1:]:
    try:
        snapshot_download(name)
    except Exception as error:
        meant = download_error(name, None, error)
        print(type(meant).__name__, meant)
"""


class Hub(BaseHTTPRequestHandler):
    """A Hub that refuses each model in another way."""

    def do_GET(self) -> None:
        status, code = next(
            answer
            for name, answer in {
                "acme/none": (401, "RepoNotFound"),
                "acme/gated": (403, "GatedRepo"),
                "acme/busy": (503, ""),
            }.items()
            if name in self.path
        )
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


def ask(endpoint: str, home, *names: str) -> list[str]:
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_no_such_model_and_gated_are_the_users_and_the_rest_is_an_outage(tmp_path):
    with serving(Hub) as url:
        none, gated, busy = ask(url, tmp_path, "acme/none", "acme/gated", "acme/busy")
    (away,) = ask(url, tmp_path, "acme/none")  # the server has ended
    assert none.startswith("ModelError base_model: the Hub has no model 'acme/none'")
    assert gated.startswith("ModelError base_model: 'acme/gated' is gated on the Hub")
    for line, name in ((busy, "acme/busy"), (away, "acme/none")):
        assert line.startswith(f"NetworkError base_model: '{name}' is not a folder here")
