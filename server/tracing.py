"""One OpenTelemetry trace for each request: a span for it, and child spans for its stages.

The stages are `queue`, from the arrival of the first window until it is decoded, and `decode`, from
then until the last window has its transcript. A request with the header `traceparent` becomes part
of its client's trace. Needs the extra `otel` and OTEL_EXPORTER_OTLP_ENDPOINT, as the traces of jobs
do; without them it does nothing. Neither audio nor text stands in a span.
"""

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lorajob.serving.models import SpokenPiece
from lorajob.worker.monitoring import traces

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SHUTDOWN_MILLISECONDS = 3000  # longest time that a collector can delay the end of the server
FIRST_FAILURE = 400  # the lowest status code that makes a span an error

log = logging.getLogger(__name__)


class RequestTrace:
    """What is known of one request. It is exported when the request ends."""

    def __init__(
        self, provider: "TracerProvider | None", task: str, headers: Mapping[str, str]
    ) -> None:
        self._provider, self._task, self._headers = provider, task, headers
        self._began = time.time()
        self._model = ""
        self._seconds = 0.0
        self._windows = 0
        self._queued = self._decoding = self._decoded = 0.0

    def of(self, model: str) -> None:
        """Name the model, as the client did."""
        self._model = model

    def lasts(self, seconds: float) -> None:
        """State the length of the audio."""
        self._seconds = seconds

    def heard(self, piece: SpokenPiece) -> None:
        """Count a transcript, and note when its window came, was begun and was decoded."""
        self._windows += 1
        if self._windows == 1:
            self._queued, self._decoding = piece.queued_at, piece.begun_at
        self._queued = min(self._queued, piece.queued_at)
        self._decoding = min(self._decoding, piece.begun_at)
        self._decoded = max(self._decoded, piece.decoded_at)

    def end(self, status: int) -> None:
        """Export the spans. Never raises, and waits for no collector."""
        if self._provider is None:
            return
        try:
            self._export(self._provider, status)
        except Exception:  # an error in a library or in its settings must not affect a request
            log.warning("the spans of a request were not exported", exc_info=True)

    def _export(self, provider: "TracerProvider", status: int) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        tracer = provider.get_tracer("lorajob")
        root = tracer.start_span(
            self._task,
            context=TraceContextTextMapPropagator().extract(dict(self._headers)),
            kind=trace.SpanKind.SERVER,
            start_time=_nanoseconds(self._began),
        )
        root.set_attributes(
            {
                "model": self._model,
                "audio_seconds": self._seconds,
                "windows": self._windows,
                "http.response.status_code": status,
            }
        )
        if status >= FIRST_FAILURE:
            root.set_status(trace.Status(trace.StatusCode.ERROR, str(status)))
        within = trace.set_span_in_context(root)
        stages = [
            ("queue", self._queued, self._decoding),
            ("decode", self._decoding, self._decoded),
        ]
        for name, began, ended in stages if self._windows else []:
            stage = tracer.start_span(name, context=within, start_time=_nanoseconds(began))
            stage.end(_nanoseconds(max(began, ended)))
        root.end()


class RequestTraces:
    """Makes and exports the traces of one server."""

    def __init__(self) -> None:
        self._provider = _provider() if traces.enabled() else None

    def begin(self, task: str, headers: Mapping[str, str]) -> RequestTrace:
        """The trace of a request that has just arrived."""
        return RequestTrace(self._provider, task, headers)

    def close(self) -> None:
        """Export what is left, for some seconds at most."""
        if self._provider is not None:
            self._provider.force_flush(SHUTDOWN_MILLISECONDS)
            self._provider.shutdown()


def _provider() -> "TracerProvider":
    """A provider that exports from a thread of its own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    service = os.environ.get("OTEL_SERVICE_NAME", "lorajob")
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(timeout=traces.EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    return provider


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
