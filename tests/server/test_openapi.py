"""/openapi.json, and requests that schemathesis makes from it: none may end in a status of 5xx.

By hand, with more of them: SCHEMATHESIS_EXAMPLES=20000 pytest tests/server/test_openapi.py
"""

import os
from pathlib import Path
from typing import Any

import schemathesis

from lorajob.server.app import create_app
from lorajob.server.metrics import ServerMetrics
from lorajob.server.service import Limits, SpeechService
from tests.support.openapi import ask_everything
from tests.support.served import ModelCatalogue, Pool, Process

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))  # of each operation
OPERATIONS = 5


def test_no_request_of_the_document_makes_the_server_fail(tmp_path: Path) -> None:
    pool: Any = Pool(Process())
    catalogue: Any = ModelCatalogue()
    service = SpeechService(pool, catalogue, ServerMetrics(), Limits(), tmp_path)
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(service, ()))
    asked = ask_everything(schema, EXAMPLES)
    assert len(asked) == OPERATIONS, asked
