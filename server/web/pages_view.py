"""What the screen of a job shows of its record."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lorajob.errors import LorajobError
from lorajob.job.jobdir import STAGES
from lorajob.job.results import Scores, StageResult, fewer_errors, headline, verdict_of
from lorajob.languages import Language
from lorajob.server.web.pages_jobs import seconds_of
from lorajob.storage.urls import public
from lorajob.tasks.describe import Wait
from lorajob.tasks.jobs import Jobs, waits
from lorajob.tasks.promotions import Promotions
from lorajob.tasks.words import language_of, state_of_work
from lorajob.worker.records.record import JobRecord, StageRecord

RETRIED = ("failed", "rejected", "cancelled")


@dataclass(frozen=True)
class StageLine:
    """A stage of a job. Times are in seconds."""

    name: str
    it: StageRecord
    seconds: float | None

    @property
    def share(self) -> float | None:
        """How much is done, 0 to 1; None unless it runs."""
        if self.it.state != "running":
            return None
        return 0.0 if self.it.progress is None else min(1.0, self.it.progress.share)

    @property
    def phase(self) -> str:
        """What the stage does now, in its own words."""
        said = self.it.progress.model_extra if self.it.progress else None
        phase = (said or {}).get("phase")
        return phase if isinstance(phase, str) else ""


@dataclass(frozen=True)
class JobScreen:
    """A job as its screen shows it."""

    record: JobRecord
    language: Language
    wait: Wait | None
    promoted: bool
    now: float

    @property
    def state(self) -> str:
        return state_of_work(self.record)

    @property
    def stages(self) -> list[StageLine]:
        return [self._stage(name, it) for name, it in self.record.stages.items()]

    def _stage(self, name: str, it: StageRecord) -> StageLine:
        ended = it.finished_at or (self.now if it.state == "running" else None)
        started = it.started_at
        taken = None if started is None or ended is None else ended - started
        return StageLine(name, it, taken)

    @property
    def can_retry(self) -> bool:
        return self.record.state in RETRIED

    @property
    def has_model(self) -> bool:
        return self.record.stages["convert"].state == "succeeded"

    @property
    def evaluated(self) -> bool:
        return self.record.stages["evaluate"].state == "succeeded"

    @property
    def trains(self) -> bool:
        return self.record.stages["train"].state != "waiting"

    @property
    def corpora(self) -> list[str]:
        return [public(it) for it in (self.record.corpus, *self.record.more_corpora)]

    @property
    def base(self) -> str:
        return public(self.record.base_model)

    @property
    def unit(self) -> str:
        return "word" if self.language.primary_metric == "wer" else "character"

    @property
    def before(self) -> Scores | None:
        """The scores of the base model."""
        return self.record.scores.get("base")

    @property
    def measured(self) -> str | None:
        """`delivered`, or `tuned` of an older job; None before its evaluation."""
        return headline(self.record.scores)

    @property
    def after(self) -> Scores | None:
        """The scores of that model."""
        return None if self.measured is None else self.record.scores[self.measured]

    def rate(self, scores: Scores) -> float:
        """The error rate by the language's metric, in percent."""
        return scores.wer if self.language.primary_metric == "wer" else scores.cer

    def interval(self, scores: Scores) -> tuple[float, float] | None:
        """Its 95 % interval."""
        wer = self.language.primary_metric == "wer"
        return scores.wer_interval if wer else scores.cer_interval

    @property
    def fewer(self) -> float | None:
        """How many errors fewer than the base model on its clips, in percent of its errors."""
        evaluated = self.record.stages["evaluate"].result
        return fewer_errors(evaluated, self.language.primary_metric)

    @property
    def checked(self) -> StageResult | None:
        """The result with the verdict of the gate; None if the gate did not run."""
        return verdict_of({name: it.result for name, it in self.record.stages.items()})

    @property
    def seconds(self) -> float:
        return seconds_of(self.record, self.now)

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time of the finished stages."""
        return self._cost("cpu_seconds", sum)

    @property
    def memory_bytes(self) -> float | None:
        """The most memory that a finished stage took."""
        return self._cost("peak_memory_bytes", max)

    def _cost(self, name: str, total: Callable[[Iterable[float]], float]) -> float | None:
        results = [it.result for it in self.record.stages.values() if it.result is not None]
        found = [(it.model_extra or {}).get(name) for it in results]
        figures = [float(it) for it in found if isinstance(it, int | float)]
        return total(figures) if figures else None

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        results = [self.record.stages[name].result for name in STAGES]
        return [text for it in results if it is not None for text in (*it.notes, *it.warnings)]


def view_job(jobs: Jobs, record: JobRecord) -> JobScreen:
    """A job as its screen shows it."""
    return JobScreen(
        record=record,
        language=language_of(record.language),
        wait=waits(jobs, [record]).get(record.id),
        promoted=_promoted(jobs, record),
        now=time.time(),
    )


def _promoted(jobs: Jobs, record: JobRecord) -> bool:
    try:
        current = Promotions(jobs.settings).current(record.language)
    # A store without an answer: the screen shows the job nevertheless.
    except (LorajobError, OSError):
        return False
    return current is not None and current.job == record.id
