"""What a worker does when it starts and stops, hooked in by Celery's signals.

The main process sends heartbeats, touches files for a probe and, if asked to, ends an idle worker.
At shutdown it creates the flag file of lorajob.worker.stopping. The reconciler and the notifier run
in the main process too. They belong to lorajob.tasks, which this package does not import, so they
pass their tickers to `run` at `worker_ready`.
"""

import logging
import os
import shutil
import signal
import tempfile
import uuid
from pathlib import Path
from types import FrameType
from typing import Any

from celery import bootsteps, signals
from celery.worker import state
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from lorajob import logs
from lorajob.worker.connect import connect
from lorajob.worker.health import Unfit, may_consume
from lorajob.worker.heartbeats import CONNECTED, heartbeat, mark, pulse
from lorajob.worker.machine.decoder_check import decoder_check
from lorajob.worker.machine.idle import IdleWatch, idle_seconds
from lorajob.worker.machine.self_check import SelfCheck
from lorajob.worker.monitoring.gpu_load import GpuWatch
from lorajob.worker.queues import class_of
from lorajob.worker.settings import SETTLE_SECONDS, Settings
from lorajob.worker.stopping import STOP_FILE, raise_stop_file, stop_by_stage, stop_on_hangup
from lorajob.worker.ticker import Ticker

CHILD_SECONDS = 0.5

logger = logging.getLogger(__name__)
_tickers: list[Ticker] = []
_in_child = False


def run(ticker: Ticker) -> None:
    """Start a ticker; it is stopped when this worker ends."""
    _tickers.append(ticker.start())


def install() -> None:
    """Connect to the signals. The application calls this once."""
    if logs.wants_json():
        signals.celeryd_init.connect(_log_json)  # Celery may warn before it sets up its logging
        signals.setup_logging.connect(_log_json)
        signals.celeryd_after_setup.connect(_silence_celery)
    signals.after_setup_logger.connect(_show_controls)
    signals.after_setup_task_logger.connect(_show_controls)
    signals.worker_init.connect(_prepare_stop_file)
    signals.worker_ready.connect(_start_heartbeat)
    signals.worker_ready.connect(_watch_idleness)
    signals.worker_ready.connect(_handle_sigquit)
    signals.worker_ready.connect(_replace_children_soon)
    signals.worker_shutting_down.connect(_tell_children)
    signals.worker_process_init.connect(_prepare_child)
    signals.task_prerun.connect(_stop_by_stage)
    signals.worker_shutdown.connect(_sign_off)


def _log_json(loglevel: int | None = None, **_: Any) -> None:
    """Set up logging as JSON, instead of Celery's own setup."""
    logs.configure(loglevel or logging.INFO)


def _show_controls(logger: logging.Logger, **_: Any) -> None:
    """Show control characters in messages that Celery's own formatter writes."""
    for handler in logger.handlers:
        handler.addFilter(logs.show_controls)


def _silence_celery(**_: Any) -> None:
    """Drop what is not JSON: Celery's banner and farewell, which go to standard output, and the
    first lines of a pool process, which it logs in another form before its setup.
    """
    os.environ["_MP_FORK_LOGLEVEL_"] = ""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _prepare_stop_file(**_: Any) -> None:
    folder = Path(tempfile.mkdtemp(prefix="lorajob-worker-"))
    os.environ[STOP_FILE] = str(folder / "stop")
    run(pulse(folder))


def _tell_children(**_: Any) -> None:
    raise_stop_file()


def _prepare_child(**_: Any) -> None:
    """In a pool child: leave a closing terminal to the main process, which tells the children."""
    global _in_child
    _in_child = True
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _stop_by_stage(**_: Any) -> None:
    """Keep a pool child, which runs one task only, from ending by SIGTERM before its stage."""
    if _in_child:
        stop_by_stage(Settings().grace_seconds + SETTLE_SECONDS)


class StopStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Creates the flag file when a worker ends without a signal, as by the button in Flower.

    At its start Celery has set up its signals. The worker may then wait for Redis for long.
    """

    def start(self, worker: Any) -> None:
        stop_on_hangup()

    def close(self, worker: Any) -> None:
        raise_stop_file()


class FitStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Takes no message while the worker is unfit."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        qos = consumer.task_consumer.channel.qos
        qos.can_consume = may_consume(qos.can_consume)


def _handle_sigquit(**_: Any) -> None:
    """Create the flag file as soon as SIGQUIT arrives.

    Celery sends `worker_shutting_down` only when the time for a soft shutdown has passed, and the
    stages must stop at its beginning.
    """
    soften = signal.getsignal(signal.SIGQUIT)

    def handle(number: int, frame: FrameType | None) -> None:
        raise_stop_file()
        if callable(soften):
            soften(number, frame)

    signal.signal(signal.SIGQUIT, handle)


def _replace_children_soon(sender: Any, **_: Any) -> None:
    """Have Celery check its pool every CHILD_SECONDS.

    A pool process ends with its task. Celery often checks a moment too early, finds the process
    still there, and by default checks again only after five seconds.
    """
    if sender.hub is not None:  # None in a worker that does not run on an event loop
        sender.hub.call_repeatedly(CHILD_SECONDS, sender.pool.maintain_pool)


def _start_heartbeat(sender: Any, **_: Any) -> None:
    queues = sorted({class_of(name) for name in sender.app.amqp.queues.consume_from})
    folder = Path(os.environ[STOP_FILE]).parent
    redis = connect(Settings())
    run(heartbeat(redis, queues, sender.hostname, lambda: mark(folder, CONNECTED)))
    gpu = any(queue.startswith("gpu") for queue in queues)
    if gpu:
        run(GpuWatch(connect(Settings()), sender.hostname).ticker)
        run(decoder_check())
    teller = FlowerLine(sender.app, sender.hostname)
    run(SelfCheck(Settings(), connect(Settings()), sender.hostname, gpu, teller.tell).ticker)


class FlowerLine:
    """Shows an unfit worker in Flower, as a task that starts, and succeeds when it is fit again."""

    def __init__(self, app: Any, worker: str) -> None:
        self._app = app
        self._worker = worker
        self._uuid = ""

    def tell(self, unfit: Unfit | None) -> None:
        try:
            with self._app.events.default_dispatcher(hostname=self._worker) as events:
                if unfit is not None:
                    self._uuid = self._uuid or str(uuid.uuid4())
                    line = f"takes no work: {unfit.why}"
                    said = {"name": "lorajob.unfit", "args": self._worker, "kwargs": line}
                    events.send("task-received", uuid=self._uuid, retry=False, **said)
                    events.send("task-started", uuid=self._uuid, retry=False)
                    events.send("task-progress", uuid=self._uuid, retry=False, result=line)
                elif self._uuid:
                    line = "takes work again"
                    events.send(
                        "task-succeeded", uuid=self._uuid, retry=False, result=line, runtime=0.0
                    )
                    self._uuid = ""
        except (KombuError, RedisError, OSError) as error:
            logger.info("Flower was not told: %s", error)


def _watch_idleness(sender: Any, **_: Any) -> None:
    seconds = idle_seconds()
    if seconds is None:
        return
    queues = sorted(sender.app.amqp.queues.consume_from)
    run(IdleWatch(connect(Settings()), queues, seconds, _activity, _end_warmly).ticker)


def _activity() -> tuple[int, int]:
    """The number of messages that this worker holds, and of tasks that it has begun."""
    return len(state.requests), state.all_total_count[0]


def _end_warmly() -> None:
    state.should_stop = os.EX_OK  # as SIGTERM does; the event loop checks it in every round


def _sign_off(**_: Any) -> None:
    for ticker in _tickers:  # all are told to stop first, since each may take seconds to end
        ticker.stopped.set()
    while _tickers:
        _tickers.pop().join()
    path = os.environ.pop(STOP_FILE, None)
    if path is not None:
        shutil.rmtree(Path(path).parent, ignore_errors=True)
