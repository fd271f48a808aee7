"""A thread that does something every few seconds, besides a worker's tasks."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


def nothing() -> None:
    """The default of a ticker's `at_end`."""


@dataclass
class Ticker:
    """Calls `turn` at once and then every `seconds`, until it is stopped or `turn` returns False.

    An exception of `turn` is logged and does not end the thread. The thread calls `at_end` last.
    """

    name: str
    seconds: float
    turn: Callable[[], object]
    at_end: Callable[[], None] = nothing
    end_seconds: float = 0.0  # how long `join` waits; 0: it does not wait
    stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> "Ticker":
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread after the present turn, and wait for its end."""
        self.stopped.set()
        self.join()

    def join(self) -> None:
        """Wait up to `end_seconds` for the end of a stopped ticker."""
        self._thread.join(timeout=self.end_seconds)

    def _run(self) -> None:
        while not self.stopped.is_set() and self._call(self.turn) is not False:
            self.stopped.wait(self.seconds)
        self._call(self.at_end)

    def _call(self, turn: Callable[[], object]) -> object:
        try:
            return turn()
        except Exception:  # a bug in one turn must not prevent the next ones
            logger.exception("%s: a turn failed", self.name)
            return None
