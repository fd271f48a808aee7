"""What a worker does when it starts and stops, hooked in by Celery's signals.

In the main process: a heartbeat, signs of life for a probe, a watch for idleness where asked for,
and at shutdown a flag file that supervisors in the pool's children look for (a signal reaches the
main process only, and Redis may be gone by then). The reconciler and the notifier run here too:
they belong to lorajob.tasks, which this package does not import, so they hand their tickers to
`run` at `worker_ready`.
"""

import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from celery import bootsteps, signals
from celery.worker import state

from lorajob import logs
from lorajob.worker.connect import connect
from lorajob.worker.heartbeats import CONNECTED, STOP_FILE, heartbeat, mark, pulse
from lorajob.worker.machine.idle import IdleWatch, idle_seconds
from lorajob.worker.monitoring.gpu_load import GpuWatch
from lorajob.worker.queues import class_of
from lorajob.worker.settings import Settings
from lorajob.worker.ticker import Ticker

CHILD_SECONDS = 0.5

logger = logging.getLogger(__name__)
_tickers: list[Ticker] = []


def run(ticker: Ticker) -> None:
    """Start a ticker that ends with this worker."""
    _tickers.append(ticker.start())


def install() -> None:
    """Connect to the signals; done once, by the application."""
    if logs.wants_json():
        signals.celeryd_init.connect(_log_json)  # it warns before it sets up its logging
        signals.setup_logging.connect(_log_json)
        signals.celeryd_after_setup.connect(_say_nothing_else)
    signals.worker_init.connect(_prepare_stop_file)
    signals.worker_ready.connect(_start_heartbeat)
    signals.worker_ready.connect(_watch_idleness)
    signals.worker_ready.connect(_heed_sigquit)
    signals.worker_ready.connect(_replace_children_soon)
    signals.worker_shutting_down.connect(_raise_stop_file)
    signals.worker_shutdown.connect(_sign_off)


def _log_json(loglevel: int | None = None, **_: Any) -> None:
    """In place of Celery's own setup of logging."""
    logs.configure(loglevel or logging.INFO)


def _say_nothing_else(**_: Any) -> None:
    """Celery's banner and farewell go to standard output, the log to standard error. A pool process
    that starts would log in a form of its own until it is set up.
    """
    os.environ["_MP_FORK_LOGLEVEL_"] = ""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _prepare_stop_file(**_: Any) -> None:
    folder = Path(tempfile.mkdtemp(prefix="lorajob-worker-"))
    os.environ[STOP_FILE] = str(folder / "stop")
    run(pulse(folder))


def _raise_stop_file(**_: Any) -> None:
    path = os.environ.get(STOP_FILE)
    if path is None:
        return
    try:
        Path(path).parent.mkdir(mode=0o700, exist_ok=True)  # a tidied /tmp lacks it
        Path(path).touch()
    except OSError as error:
        logger.warning("stages cannot be told to stop: %s", error)


class StopStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Raises the flag for whatever else ends a worker, such as the button in Flower."""

    def close(self, worker: Any) -> None:
        _raise_stop_file()


def _heed_sigquit(**_: Any) -> None:
    """Celery sends `worker_shutting_down` after SIGQUIT only when the time for a soft shutdown has
    passed; stages must hear of it at its beginning.
    """
    soften = signal.getsignal(signal.SIGQUIT)

    def handle(number: int, frame: FrameType | None) -> None:
        _raise_stop_file()
        if callable(soften):
            soften(number, frame)

    signal.signal(signal.SIGQUIT, handle)


def _replace_children_soon(sender: Any, **_: Any) -> None:
    """A pool process ends with its task. Celery often notices a moment too early, finds it still
    there, and looks again only after five seconds: so have it look more often.
    """
    if sender.hub is not None:  # None in a worker that does not run on an event loop
        sender.hub.call_repeatedly(CHILD_SECONDS, sender.pool.maintain_pool)


def _start_heartbeat(sender: Any, **_: Any) -> None:
    queues = sorted({class_of(name) for name in sender.app.amqp.queues.consume_from})
    folder = Path(os.environ[STOP_FILE]).parent
    redis = connect(Settings())
    run(heartbeat(redis, queues, sender.hostname, lambda: mark(folder, CONNECTED)))
    if any(queue.startswith("gpu") for queue in queues):
        run(GpuWatch(connect(Settings()), sender.hostname).ticker)


def _watch_idleness(sender: Any, **_: Any) -> None:
    seconds = idle_seconds()
    if seconds is None:
        return
    queues = sorted(sender.app.amqp.queues.consume_from)
    run(IdleWatch(connect(Settings()), queues, seconds, _activity, _end_warmly).ticker)


def _activity() -> tuple[int, int]:
    """Messages in this worker's hands, and tasks it has begun."""
    return len(state.requests), state.all_total_count[0]


def _end_warmly() -> None:
    state.should_stop = os.EX_OK  # as SIGTERM does; the event loop looks at it all the time


def _sign_off(**_: Any) -> None:
    for ticker in _tickers:  # all at once, since each may take seconds
        ticker.stopped.set()
    while _tickers:
        _tickers.pop().join()
    path = os.environ.pop(STOP_FILE, None)
    if path is not None:
        shutil.rmtree(Path(path).parent, ignore_errors=True)
