"""Signs of life in a worker's temporary folder, for a probe that must not need Redis.

`deploy/alive.py` reads the times of these files, and knows their names.
"""

import logging
import threading
from pathlib import Path

ALIVE = "alive"  # touched while the worker's process runs
CONNECTED = "connected"  # touched each time Redis has heard of it
PULSE_SECONDS = 3.0

logger = logging.getLogger(__name__)


def mark(folder: Path, name: str) -> None:
    """Give the file `name` the present time; a disk that is full is only worth a line."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)  # a tidied /tmp lacks it
        (folder / name).touch()
    except OSError as error:
        logger.warning("no sign of life in %s: %s", folder, error)


class Pulse:
    """A thread in a worker's main process that touches ALIVE until it is stopped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=PULSE_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            mark(self._folder, ALIVE)
            self._stop.wait(PULSE_SECONDS)
