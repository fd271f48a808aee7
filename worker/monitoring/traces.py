"""One OpenTelemetry trace per job: a span for the job, and a child span for each attempt.

Needs the extra `otel` and OTEL_EXPORTER_OTLP_ENDPOINT; without them it does nothing. The ids of the
trace and of the root span are hashes of the job's id, so that spans from different workers form one
trace.
"""

import hashlib
import importlib.util
import logging
import os
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORT_SECONDS = 3.0  # longest time that a collector can delay the next stage
GOOD = ("committed", "succeeded", "cancelled", "shutdown")

logger = logging.getLogger(__name__)


def tell_attempt(record: JobRecord, claim: Claim, worker: str, outcome: str, began: float) -> None:
    """Export the span of an attempt that has just ended. Never raises."""
    attributes: dict[str, str | int] = {
        "stage": claim.stage,
        "attempt": claim.attempt,
        "worker": worker,
    }
    _tell(_Span(record, claim.stage, outcome, began, time.time(), attributes))


def tell_job(record: JobRecord, state: str) -> None:
    """Export the span of a job that has ended. Never raises."""
    finished = [at.finished_at for at in record.stages.values() if at.finished_at is not None]
    ended = max(finished, default=time.time())
    _tell(_Span(record, None, state, record.created_at, max(ended, record.created_at), {}))


def enabled() -> bool:
    """Whether spans are exported at all."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return False
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return _installed()


@cache
def _installed() -> bool:
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        logger.warning("no traces: pip install 'lorajob[otel]'")
    return found


def trace_id(job_id: str) -> int:
    """The id of a job's trace, of 128 bits."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:16], "big")


def root_span_id(job_id: str) -> int:
    """The id of a job's root span, of 64 bits."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[16:24], "big")


@dataclass(frozen=True)
class _Span:
    """A span to export: of an attempt at `stage`, or of the whole job if that is None.

    Times are seconds since the epoch.
    """

    record: JobRecord
    stage: str | None
    outcome: str
    began: float
    ended: float
    attributes: dict[str, str | int]


def _tell(span: _Span) -> None:
    if not enabled():
        return
    try:
        _export(span)
    except Exception:  # an error in a library or in its settings must not affect a job
        logger.warning("%s: its span was not exported", span.record.id, exc_info=True)


def _export(told: _Span) -> None:
    from opentelemetry import trace

    record, stage, outcome = told.record, told.stage, told.outcome
    root = trace.SpanContext(
        trace_id(record.id),
        root_span_id(record.id),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    parent = trace.set_span_in_context(trace.NonRecordingSpan(root)) if stage else None
    provider = _provider(record.id)
    span = provider.get_tracer("lorajob").start_span(
        stage or "job", context=parent, start_time=_nanoseconds(told.began)
    )
    span.set_attributes(
        {"job": record.id, "language": record.language, "outcome": outcome, **told.attributes}
    )
    if outcome not in GOOD:
        span.set_status(trace.Status(trace.StatusCode.ERROR, outcome))
    span.end(_nanoseconds(told.ended))
    provider.shutdown()


def _provider(job_id: str) -> "TracerProvider":
    """A provider that exports at once. A span without a parent becomes the job's root span."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class JobIds(RandomIdGenerator):
        """Takes the ids of a root span from its job. A child span keeps its parent's trace."""

        def generate_trace_id(self) -> int:
            self._rooted = True
            return trace_id(job_id)

        def generate_span_id(self) -> int:
            return root_span_id(job_id) if self._rooted else super().generate_span_id()

        _rooted = False

    service = os.environ.get("OTEL_SERVICE_NAME", "lorajob")
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        id_generator=JobIds(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(timeout=EXPORT_SECONDS)))
    return provider


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
