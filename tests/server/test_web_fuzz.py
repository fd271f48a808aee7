"""No request that the OpenAPI document of `lorajob web` allows makes it fail.

By hand, with more of them: SCHEMATHESIS_EXAMPLES=100 pytest tests/server/test_web_fuzz.py
"""

import os
from pathlib import Path

import schemathesis
from pydantic import SecretStr
from redis import Redis

from lorajob.server.web.app import create_web_app
from lorajob.server.web.state import open_service
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.openapi import ask_everything
from tests.support.records import create

KEY = {"Authorization": "Bearer send"}
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "2"))  # of each operation


def test_no_request_of_the_document_makes_the_server_fail(
    redis: Redis, redis_server: Settings, tmp_path: Path
) -> None:
    keys = {"submit_keys": SecretStr("send"), "home": tmp_path, "artifacts": tmp_path / "jobs"}
    service = open_service(redis_server.model_copy(update=keys))
    create(Records(redis), tmp_path)
    schema = schemathesis.openapi.from_asgi(
        "/api/openapi.json", create_web_app(service), headers=KEY
    )
    asked = ask_everything(schema, EXAMPLES, headers=KEY)
    assert len(asked) >= 30
    service.close()
