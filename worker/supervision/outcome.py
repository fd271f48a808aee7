"""How a stage's process ended, and the types that its listeners share."""

from dataclasses import dataclass
from typing import Literal, Protocol

from lorajob.job.report import Progress as Progress
from lorajob.job.results import StageResult

# superseded: a later claim has the stage; forgotten: Redis has no record of the job any more;
# stalled: the stage has reported no step for too long
StopReason = Literal["cancelled", "shutdown", "superseded", "forgotten", "stalled"]


class Listener(Protocol):
    """Hears of a running stage periodically.

    Watcher passes on to the others: RecordWatch, ProgressMirror, and one that pushes checkpoints.
    """

    def hear(self, progress: Progress | None) -> StopReason | None:
        """Take new progress, or None if there is none. Return a reason to stop, or None."""


@dataclass(frozen=True)
class Committed:
    """The stage's files are complete and in place."""

    result: StageResult

    def __str__(self) -> str:
        return "succeeded"


@dataclass(frozen=True)
class Failed:
    """The stage failed, and reported in one sentence why."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"failed ({self.kind}): {self.message}"


@dataclass(frozen=True)
class Stopped:
    """The supervisor stopped the stage, for `reason`."""

    reason: StopReason

    def __str__(self) -> str:
        return f"stopped: {self.reason}"


@dataclass(frozen=True)
class Crashed:
    """The stage ended unexpectedly: it has a bug, or was killed from outside."""

    returncode: int  # negative: minus the number of a signal
    message: str
    place: str | None = None  # where Python was when native code crashed

    def __str__(self) -> str:
        return self.message


Outcome = Committed | Failed | Stopped | Crashed
