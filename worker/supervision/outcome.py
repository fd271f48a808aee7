"""How a stage's process ended, and the words with which it is watched."""

from dataclasses import dataclass
from typing import Literal, Protocol

from lorajob.job.report import Progress as Progress
from lorajob.job.results import StageResult

# superseded: a later claim has the stage; forgotten: Redis has no record of the job any more;
# stalled: no step for long
StopReason = Literal["cancelled", "shutdown", "superseded", "forgotten", "stalled"]


class Listener(Protocol):
    """Told of a running stage again and again."""

    def hear(self, progress: Progress | None) -> StopReason | None:
        """Take new progress, None if there is none; tell why to stop the stage, if at all."""


@dataclass(frozen=True)
class Committed:
    """The stage's files stand in their place."""

    result: StageResult


@dataclass(frozen=True)
class Failed:
    """The stage said in one sentence why it cannot succeed."""

    kind: str
    message: str


@dataclass(frozen=True)
class Stopped:
    """The stage was stopped from here, for `reason`."""

    reason: StopReason


@dataclass(frozen=True)
class Crashed:
    """The stage ended as no stage should: a bug, or killed from outside."""

    returncode: int  # negative: the number of a signal
    message: str


Outcome = Committed | Failed | Stopped | Crashed
