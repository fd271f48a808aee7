"""The standing of a job: its current stage and state. Only this module derives it.

`JobRecord.standing` derives it from a whole record, `Records.standings` from a few fields. Code
that lists, counts or sends jobs uses it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from lorajob.job.jobdir import STAGES
from lorajob.job.results import Scores, StageResult
from lorajob.job.states import ENDED, JobState, StageState
from lorajob.worker.queues import QUEUES

# The fields of the record's hash that `standing_of` needs, in its order.
FIELDS = (
    "language",
    "state",
    "memory_class",
    "evaluate.result",
    *(f"{stage}.state" for stage in STAGES),
    *(f"{stage}.worker" for stage in STAGES),
)


@dataclass(frozen=True)
class Standing:
    """A job's state, and the stage that it is at: the first that has not succeeded."""

    language: str
    state: JobState
    stage: str | None  # None once all have succeeded
    stage_state: StageState | None
    worker: str | None  # the worker that runs the stage, or ran it last
    memory_gb: int  # of the smallest card that the stage fits; 0 for any card, and on a CPU
    scores: Mapping[str, Scores]  # on the test clips, once evaluated

    @property
    def over(self) -> bool:
        """True if the job has ended; only a user can continue it."""
        return self.state in ENDED

    @property
    def active(self) -> bool:
        """Whether a worker runs the stage, now or later."""
        return self.stage is not None and not self.over

    @property
    def waits(self) -> bool:
        """Whether the stage waits for a worker."""
        return self.active and self.stage_state == "queued"

    @property
    def runs(self) -> bool:
        """Whether a worker has the stage."""
        return self.active and self.stage_state == "running"


def missing_stages(states: Mapping[str, StageState | None]) -> tuple[str, ...]:
    """The stages that have not succeeded, in order."""
    return tuple(stage for stage in STAGES if states[stage] != "succeeded")


def standing(
    language: str,
    state: JobState,
    memory_class: int | None,
    states: Mapping[str, StageState | None],
    workers: Mapping[str, str | None],
    scores: Mapping[str, Scores],
) -> Standing:
    """The standing of a job whose stages have these states and workers."""
    stage = next(iter(missing_stages(states)), None)
    needs_card = stage is not None and QUEUES[stage] == "gpu"
    return Standing(
        language,
        state,
        stage,
        None if stage is None else states[stage],
        None if stage is None else workers[stage],
        (memory_class or 0) if needs_card else 0,
        scores,
    )


def standing_of(values: Sequence[str | None]) -> Standing | None:
    """The standing from the values of a record's FIELDS; None if there is no record."""
    language, state, memory_class, evaluated, *rest = values
    if language is None or state is None:
        return None
    found = cast("list[StageState | None]", rest[: len(STAGES)])
    states = dict(zip(STAGES, found, strict=True))
    workers: dict[str, str | None] = dict(zip(STAGES, rest[len(STAGES) :], strict=True))
    known, size = cast("JobState", state), int(memory_class or 0)
    return standing(language, known, size, states, workers, _scores(evaluated))


def _scores(evaluated: str | None) -> dict[str, Scores]:
    try:
        return StageResult.model_validate_json(evaluated or "{}").scores
    except ValueError:  # reading the whole record reports the damage
        return {}
