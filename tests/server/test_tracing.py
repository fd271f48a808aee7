"""The traces of requests, as a collector gets them."""

from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.testclient import TestClient

from lorajob.serving.models import Answer, Begun, SpokenPiece
from tests.support.collector import Collector, attributes, collecting
from tests.support.served import FILE, Process, serving

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class TwoWindows(Process):
    """Answers with two windows, which waited from 100 and 101 s on."""

    async def answers(self, request: Any) -> Any:
        yield Answer(id=1, begun=Begun(language="hi", seconds=31))
        for number in (0, 1):
            times = {
                "queued_at": 100 + number,
                "begun_at": 102 + number,
                "decoded_at": 105 + number,
            }
            yield Answer(id=1, piece=SpokenPiece(start=0, end=1, text="hidden", **times))


def ask(client: TestClient, **fields: str) -> Any:
    """The answer to a request of a client that traces, too."""
    return client.post(
        "/v1/audio/transcriptions",
        files=FILE,
        data={"model": "hi"} | fields,
        headers={"traceparent": f"00-{TRACE}-{CLIENT}-01"},
    )


def sent(collector: Collector, client: TestClient) -> dict[str, Span]:
    app: Any = client.app
    app.state.service.traces.close()
    assert all(span.trace_id.hex() == TRACE for span in collector.spans)
    return {span.name: span for span in collector.spans}


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_request_is_a_span_with_its_wait_and_its_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with serving(tmp_path, TwoWindows()) as client:
            assert "hidden" in ask(client, stream=stream).text
            spans = sent(collector, client)
    assert spans.keys() == {"transcribe", "queue", "decode"}
    root = spans["transcribe"]
    assert root.parent_span_id.hex() == CLIENT
    said = attributes(root)
    assert (said["model"], said["windows"], said["http.response.status_code"]) == ("hi", 2, 200)
    times = {name: (100, 102) if name == "queue" else (102, 106) for name in ("queue", "decode")}
    for name, (began, ended) in times.items():
        assert spans[name].parent_span_id == root.span_id
        assert spans[name].start_time_unix_nano == began * 10**9
        assert spans[name].end_time_unix_nano == ended * 10**9
    assert "hidden" not in str(collector.spans)


def test_a_refused_request_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with serving(tmp_path) as client:
            assert ask(client, temperature="warm").status_code == 400
            spans = sent(collector, client)
    assert spans.keys() == {"transcribe"}
    assert spans["transcribe"].status.code == Status.STATUS_CODE_ERROR
