"""Traces as a collector gets them: OTLP over HTTP, one trace a job."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from lorajob.job.jobdir import STAGES
from lorajob.tasks.broker import send
from lorajob.worker.monitoring import traces
from lorajob.worker.records import notices
from lorajob.worker.records.records import Claim, Records
from tests.support.collector import Collector, attributes, collecting
from tests.support.command import job_record
from tests.support.ports import free_port
from tests.support.service import new_job, settings_for, wait_for
from tests.support.watched import workers


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


def test_a_jobs_stages_are_one_trace_of_real_workers(collector, redis_server, tmp_path):
    settings = settings_for(tmp_path, redis_server.redis_url.get_secret_value())
    with workers(settings, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as redis:
        wait_for(lambda: redis.exists(notices.WANTED))
        record = new_job(settings, Records(redis), "hi-00000052", STAGES)
        send(record, settings)
        wait_for(lambda: len(collector.spans) == 5, 60)
    spans = {span.name: span for span in collector.spans}
    assert spans.keys() == {"job", *STAGES}
    assert {span.trace_id for span in collector.spans} == {
        traces.trace_id(record.id).to_bytes(16, "big")
    }
    root = spans.pop("job")
    assert root.span_id == traces.root_span_id(record.id).to_bytes(8, "big")
    assert not root.parent_span_id
    assert attributes(root) == {"job": record.id, "language": "hi", "outcome": "succeeded"}
    for stage, span in spans.items():
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        said = attributes(span)
        assert (said["stage"], said["attempt"], said["outcome"]) == (stage, 1, "committed")
        assert said["worker"].endswith("-watched@" + os.uname().nodename)
    assert collector.services == {"lorajob"}


def test_a_failed_attempt_is_an_error(collector, tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "speech")
    claim = Claim("hi-1a2b3c4d", "train", 3, "owner")
    traces.tell_attempt(job_record(tmp_path), claim, "gpu@a", "crashed", time.time() - 5)
    (span,) = collector.spans
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert 4.9e9 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    assert collector.services == {"speech"}


def test_a_collector_that_is_away_costs_seconds_and_no_job(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    claim = Claim("hi-1a2b3c4d", "train", 3, "owner")
    traces.tell_attempt(job_record(tmp_path), claim, "gpu@a", "committed", time.time())
    # Without a limit the exporter tries again for more than a minute.
    assert time.monotonic() - began < traces.EXPORT_SECONDS + 40


def test_without_an_endpoint_nothing_of_it_is_loaded(tmp_path):
    code = (
        "import sys; from lorajob.worker.monitoring import traces; assert not traces.enabled();"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry.exporter')]"
    )
    env = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setattr(traces.importlib.util, "find_spec", lambda name: None)
    traces._installed.cache_clear()
    try:
        assert not traces.enabled()
        assert "pip install 'lorajob[otel]'" in caplog.text
    finally:
        traces._installed.cache_clear()
