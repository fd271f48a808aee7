"""Keys, sizes, rates, queues and deadlines, in this process and without a model."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.support import command
from tests.support.served import FILE, Process, serving


def post(client: TestClient, key: str = "", **fields: str) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    data = {"model": "hi"} | fields
    return client.post("/v1/audio/transcriptions", files=FILE, data=data, headers=headers)


def test_one_of_the_keys_is_needed_except_for_health(tmp_path: Path) -> None:
    with serving(tmp_path, keys=("first", "second")) as client:
        assert post(client, "second").json()["text"] == "कखग"
        for key in ("", "secon", "second2", "first,second"):
            refused = post(client, key)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            assert client.get(path).status_code == 401
        assert client.get("/health").json()["status"] == "ok"


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(tmp_path: Path) -> None:
    with serving(tmp_path, body_bytes=1000) as client:
        large = {"file": ("a.wav", b"x" * 2000)}
        found = client.post("/v1/audio/transcriptions", files=large, data={"model": "hi"})
        assert found.status_code == 413 and found.json()["error"]["param"] == "file"
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        chunks = itertools.chain([head], (b"x" * 100 for _ in range(20)))
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        found = client.post("/v1/audio/transcriptions", content=chunks, headers=kind)
        assert found.status_code == 413
        assert post(client).status_code == 200
    assert not list(tmp_path.iterdir())


def test_a_key_that_asks_too_often_is_told_when_to_come_again(tmp_path: Path) -> None:
    with serving(tmp_path, keys=("a", "b"), a_minute=2) as client:
        assert [post(client, "a").status_code for _ in range(3)] == [200, 200, 429]
        refused = post(client, "a")
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert post(client, "b").status_code == 200


def test_a_full_queue_and_a_late_answer_are_refused(tmp_path: Path) -> None:
    slow = Process(seconds=3600)
    with serving(tmp_path, slow, requests=0) as client:
        refused = post(client)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
    assert slow.begun == 0
    with serving(tmp_path, slow, seconds=0.2) as client:
        assert post(client).status_code == 504
        assert client.get("/health").json()["open_requests"] == 0
        # After the first event the status is sent: the error is an event.
        assert '"error"' in post(client, stream="true").text
    assert slow.begun == slow.ended == 2
    assert not list(tmp_path.iterdir())


def test_a_crash_is_tried_again_once(tmp_path: Path) -> None:
    with serving(tmp_path, Process(crashes=1)) as client:
        assert post(client).json()["text"] == "कखग"
    with serving(tmp_path, Process(crashes=2)) as client:
        failed = post(client)
        assert failed.status_code == 503 and failed.headers["Retry-After"]
        assert 'status="503"' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/audio/transcriptions", 405), ("POST", "/v1/nothing", 404), ("GET", "/", 404)],
)
def test_other_paths_and_methods_get_openais_shape(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    with serving(tmp_path) as client:
        found = client.request(method, path)
        assert found.status_code == status
        assert set(found.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"chunking_strategy": "none"}, "chunking_strategy"),
        ({"logprobs": "1"}, "logprobs"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
    ],
)
def test_the_wrong_field_is_named(tmp_path: Path, fields: dict[str, str], param: str) -> None:
    with serving(tmp_path) as client:
        found = post(client, **fields)
        assert found.status_code == 400 and found.json()["error"]["param"] == param


def test_what_is_no_form_or_lacks_a_file_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        path = "/v1/audio/transcriptions"
        assert client.post(path, json={"model": "hi"}).status_code == 400
        assert client.post(path, data={"model": "hi"}).status_code == 400
        kind = {"Content-Type": "multipart/form-data"}
        assert client.post(path, content=b"x", headers=kind).status_code == 400
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        assert client.post(path, content=b"--x\r\n\r\n", headers=kind).status_code == 400
        text = client.post(path, files={"file": (None, "text")}, data={"model": "hi"})
        assert text.status_code == 400 and text.json()["error"]["param"] == "file"


def test_other_machines_are_not_served_without_a_key(tmp_path: Path) -> None:
    env = command.environment(home=tmp_path)
    found = command.run("serve", "--host", "0.0.0.0", "--port", "0", env=env)
    assert found.returncode == 2 and not found.stdout
    assert found.stderr.endswith("other machines can reach it; set LORAJOB_API_KEY\n")


def test_a_model_that_does_not_exist_ends_the_command_with_one_line(tmp_path: Path) -> None:
    env = command.environment(home=tmp_path, artifacts=tmp_path / "jobs")
    found = command.run("serve", "--models", "hi", "--port", "0", env=env)
    assert found.returncode == 2 and "no model of hi is promoted" in found.stderr
    assert found.stderr.count("\n") == 1
