"""A listener of a running stage that answers as a function does."""

from collections.abc import Callable
from dataclasses import dataclass

from lorajob.worker.supervision.outcome import Progress, StopReason


@dataclass
class Listening:
    """Hands every progress to `answer`."""

    answer: Callable[[Progress | None], StopReason | None] = lambda progress: None

    def hear(self, progress: Progress | None) -> StopReason | None:
        return self.answer(progress)
