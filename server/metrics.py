"""The metrics of one server, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
WINDOWS = (1, 2, 4, 8, 16, 32, 64)


class ServerMetrics:
    """Counts requests, audio, batches and models."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "lorajob_serve_requests",
            "Requests by task and status code.",
            ["task", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "lorajob_serve_request_seconds",
            "Time from the end of an upload to the end of its answer.",
            ["task"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._audio = Counter(
            "lorajob_serve_audio_seconds",
            "Audio that was transcribed.",
            ["model"],
            registry=self._registry,
        )
        self._batch = Histogram(
            "lorajob_serve_batch_windows",
            "Windows that were decoded together, counted once for each of them.",
            buckets=WINDOWS,
            registry=self._registry,
        )
        self._open = Gauge(
            "lorajob_serve_open_requests", "Requests that wait or run.", registry=self._registry
        )
        self._loaded = Gauge(
            "lorajob_serve_models_loaded", "Models in memory.", registry=self._registry
        )
        self._starts = Gauge(
            "lorajob_serve_model_starts",
            "Processes of models that were started.",
            registry=self._registry,
        )
        self._crashes = Gauge(
            "lorajob_serve_model_crashes",
            "Processes of models that crashed.",
            registry=self._registry,
        )

    def answered(self, task: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(task, str(status)).inc()
        self._seconds.labels(task).observe(seconds)

    def heard(self, model: str, seconds: float) -> None:
        """Count the audio of one request."""
        self._audio.labels(model).inc(seconds)

    def decoded(self, windows: int) -> None:
        """Count one window, which was decoded in a batch of `windows`."""
        self._batch.observe(windows)

    def encode(
        self, accept: str, open_requests: int, loaded: int, starts: int, crashes: int
    ) -> tuple[bytes, str]:
        """The metrics and their content type. The other arguments are the present figures."""
        self._open.set(open_requests)
        self._loaded.set(loaded)
        self._starts.set(starts)
        self._crashes.set(crashes)
        write, kind = choose_encoder(accept)
        return write(self._registry), kind
