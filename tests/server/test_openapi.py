"""/openapi.json, and requests that schemathesis makes from it: none may end in a status of 5xx.

By hand, with more of them: SCHEMATHESIS_EXAMPLES=20000 pytest tests/server/test_openapi.py
"""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from lorajob.server.app import create_app
from lorajob.server.metrics import ServerMetrics
from lorajob.server.service import Limits, SpeechService
from tests.support.served import ModelCatalogue, Pool, Process

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))  # for each path and method


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pool: Any = Pool(Process())
    catalogue: Any = ModelCatalogue()
    folder = tmp_path_factory.mktemp("uploads")
    service = SpeechService(pool, catalogue, ServerMetrics(), Limits(), folder)
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(service, ()))


schema = schemathesis.pytest.from_fixture("openapi")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_breaks_the_server(case: Any) -> None:
    case.call_and_validate(checks=[not_a_server_error])
