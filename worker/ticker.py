"""The thread that takes a turn every few seconds, beside a worker's tasks."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


def nothing() -> None:
    """The default of a ticker's `at_end`."""


class Ticker:
    """Calls `turn` at once and then every `seconds`, until it is stopped or a turn returns False.

    An exception of a turn is logged and ends no others. `at_end` is the thread's last call.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        turn: Callable[[], object],
        at_end: Callable[[], None] = nothing,
        end_seconds: float = 0.0,  # how long `join` waits; 0: not at all
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._turn = turn
        self._at_end = at_end
        self._end_seconds = end_seconds
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> "Ticker":
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the present turn, and wait for that."""
        self.stopped.set()
        self.join()

    def join(self) -> None:
        """Wait for the end of a ticker that is stopped."""
        self._thread.join(timeout=self._end_seconds)

    def _run(self) -> None:
        while not self.stopped.is_set() and self._call(self._turn) is not False:
            self.stopped.wait(self._seconds)
        self._call(self._at_end)

    def _call(self, turn: Callable[[], object]) -> object:
        try:
            return turn()
        except Exception:  # a bug in one turn must not end those that follow
            logger.exception("%s: a turn failed", self._name)
            return None
