"""The metrics for Prometheus. All numbers come from Redis, none from the workers themselves."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from lorajob.job.jobdir import STAGES
from lorajob.job.report import Progress
from lorajob.worker.health import unfit_workers
from lorajob.worker.heartbeats import living
from lorajob.worker.monitoring import tallies
from lorajob.worker.monitoring.census import Census, CensusTaker
from lorajob.worker.monitoring.gpu_load import GpuLoad, loads_of
from lorajob.worker.queues import KINDS, MEMORY_CLASSES_GB, QUEUES
from lorajob.worker.records.record import JobRecord

MIB = 1024**2
FRESH_SECONDS = 2.0  # an answer is reused for this long, since several clients may scrape

logger = logging.getLogger(__name__)


class ServiceCollector(Collector):
    """Collects the metrics of one service. An unavailable Redis is a metric, too."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._taker = CensusTaker(redis)
        self._lock = threading.Lock()
        self._answer: list[Metric] = []
        self._asked = float("-inf")

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() - self._asked >= FRESH_SECONDS:
                self._answer = self._ask()
                self._asked = time.monotonic()
            return self._answer

    def describe(self) -> Iterable[Metric]:
        return []  # registering the collector must not need Redis

    def _ask(self) -> list[Metric]:
        up = GaugeMetricFamily("lorajob_redis_up", "Whether Redis answers.")
        try:
            metrics = list(self._service())
        except (RedisError, OSError) as error:
            logger.warning("Redis is unavailable: %s", error)
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *metrics]

    def _service(self) -> Iterator[Metric]:
        started = time.perf_counter()
        census = self._taker.take()
        workers = {queue: living(self._redis, queue) for queue in KINDS}
        yield from job_metrics(census)
        yield from training_metrics(census.running)
        yield from worker_metrics(workers, loads_of(self._redis, workers["gpu"]))
        yield fitness_metric(workers, unfit_workers(self._redis))
        yield from tally_metrics(*tallies.read_all(self._redis))
        yield _single(
            "lorajob_scrape_seconds", "What these metrics took.", time.perf_counter() - started
        )


def job_metrics(census: Census) -> Iterator[Metric]:
    """The numbers of jobs by state and by queue, and their error rates."""
    jobs = GaugeMetricFamily(
        "lorajob_jobs", "Jobs by state and language.", labels=["state", "language"]
    )
    found = census.standings.values()
    for (state, language), count in sorted(Counter((s.state, s.language) for s in found).items()):
        jobs.add_metric([state, language], count)
    yield jobs
    queues = GaugeMetricFamily(
        "lorajob_queue_jobs",
        "Jobs whose stage waits for or is run by a worker of this queue with a card of so many GB.",
        labels=["queue", "state", "memory_gb"],
    )
    active = Counter(
        (QUEUES[s.stage], s.waits, s.memory_gb) for s in found if s.active and s.stage is not None
    )
    for queue in KINDS:  # zeros are reported too: KEDA takes a missing value for an error
        for size in (0, *MEMORY_CLASSES_GB) if queue == "gpu" else (0,):
            queues.add_metric([queue, "queued", str(size)], active[queue, True, size])
            queues.add_metric([queue, "running", str(size)], active[queue, False, size])
    yield queues
    wer = GaugeMetricFamily(
        "lorajob_wer_percent",
        "Word error rate on the test clips, of the newest job of a language that was evaluated.",
        labels=["language", "model"],
    )
    newest = {s.language: s.scores for s in found if s.scores}  # the newest job comes last
    for language, scores in sorted(newest.items()):
        for model, measured in scores.items():
            wer.add_metric([language, model], measured.wer)
    yield wer


def training_metrics(running: list[JobRecord]) -> Iterator[Metric]:
    """The progress of the running stages, as their supervisors last reported it."""
    labels = ["job_id", "language", "stage"]  # Prometheus uses the label `job` itself
    names = {
        "step": ("lorajob_stage_step", "Step that a running stage has reached."),
        "total": ("lorajob_stage_steps", "Steps that a running stage has to make."),
        "eta_seconds": ("lorajob_stage_eta_seconds", "Time that a running stage still needs."),
        "loss": ("lorajob_train_loss", "Loss of a running training, nats a token."),
        "rate": ("lorajob_train_steps_per_second", "Steps a second of a running training."),
        "tokens_per_second": ("lorajob_train_tokens_per_second", "Tokens a second of a training."),
    }
    families = {key: GaugeMetricFamily(*name, labels=labels) for key, name in names.items()}
    for record in running:
        for stage, at in record.stages.items():
            if at.state != "running" or at.progress is None:
                continue
            said = at.progress
            values = {
                "step": said.step,
                "total": said.total,
                "eta_seconds": said.eta_seconds,
                "loss": said.loss,
                "rate": steps_per_second(said) if stage == "train" else None,
                "tokens_per_second": said.tokens_per_second,
            }
            for key, family in families.items():
                if (value := values[key]) is not None:
                    family.add_metric([record.id, record.language, stage], value)
    yield from families.values()


def steps_per_second(progress: Progress) -> float | None:
    """The speed that a stage's own forecast of its end assumes."""
    if progress.step is None or progress.total is None or not progress.eta_seconds:
        return None
    return (progress.total - progress.step) / progress.eta_seconds


def worker_metrics(
    workers: dict[str, list[str]], loads: dict[str, list[GpuLoad]]
) -> Iterator[Metric]:
    """The numbers of live workers, and the load of their GPUs."""
    count = GaugeMetricFamily("lorajob_workers", "Workers that live.", labels=["queue"])
    for queue, names in workers.items():
        count.add_metric([queue], len(names))
    yield count
    labels = ["worker", "gpu", "name"]
    used = GaugeMetricFamily("lorajob_gpu_memory_used_bytes", "GPU memory in use.", labels=labels)
    total = GaugeMetricFamily("lorajob_gpu_memory_total_bytes", "GPU memory.", labels=labels)
    busy = GaugeMetricFamily(
        "lorajob_gpu_utilisation_ratio", "Share of time in which the GPU computed.", labels=labels
    )
    for worker, gpus in loads.items():
        for gpu in gpus:
            values = [worker, gpu.index, gpu.name]
            used.add_metric(values, gpu.used_mib * MIB)
            total.add_metric(values, gpu.total_mib * MIB)
            if gpu.percent is not None:
                busy.add_metric(values, gpu.percent / 100)
    yield from (used, total, busy)


def fitness_metric(workers: dict[str, list[str]], unfit: Container[str]) -> Metric:
    """Which live workers take no work, because their machine is broken."""
    family = GaugeMetricFamily(
        "lorajob_worker_unfit", "Whether a live worker takes no work.", labels=["queue", "worker"]
    )
    for queue, names in workers.items():
        for name in names:
            family.add_metric([queue, name], int(name in unfit))
    return family


def tally_metrics(
    waits: dict[str, str],
    seconds: dict[str, str],
    attempts: dict[str, str],
    leases: dict[str, str],
    notices: dict[str, str],
) -> Iterator[Metric]:
    """The counts of all workers since the data of this Redis began."""
    yield _histogram(
        "lorajob_queue_wait_seconds", "Time from queued to claimed.", "queue", KINDS,
        tallies.read_histograms(waits), tallies.WAIT_BOUNDS,
    )  # fmt: skip
    yield _histogram(
        "lorajob_stage_seconds", "Time of attempts that finished their stage.", "stage", STAGES,
        tallies.read_histograms(seconds), tallies.STAGE_BOUNDS,
    )  # fmt: skip
    ended = CounterMetricFamily(
        "lorajob_attempts", "Attempts that ended.", labels=["stage", "outcome"]
    )
    for name, count in sorted(attempts.items()):
        ended.add_metric(name.split("|", 1), int(count))
    yield ended
    lost = CounterMetricFamily("lorajob_leases_lost", "Leases that ran out.")
    lost.add_metric([], int(leases.get("lost", 0)))
    yield lost
    told = CounterMetricFamily(
        "lorajob_notices",
        "Ends of jobs told to a webhook: sent, failed tries, and undelivered after a day.",
        labels=["channel", "outcome"],
    )
    for name, count in sorted(notices.items()):
        told.add_metric(name.split("|", 1), int(count))
    yield told


def _histogram(
    name: str,
    text: str,
    label: str,
    values: Iterable[str],
    found: dict[str, tallies.Histogram],
    bounds: tuple[int, ...],
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=[label])
    for value in values:
        histogram = found.get(value, tallies.Histogram())
        buckets, sum_so_far = [], 0
        for bound in (*map(str, bounds), tallies.INFINITE):
            sum_so_far += histogram.counts.get(bound, 0)
            buckets.append((bound, sum_so_far))
        family.add_metric([value], buckets, histogram.sum)
    return family


def _single(name: str, text: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
