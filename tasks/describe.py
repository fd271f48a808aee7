"""Descriptions of jobs and batches: --json for scripts, a few words for people.

Flower shows a task's arguments, progress and result. `status` and `watch` show what a job waits
for.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorajob.errors import UsageError
from lorajob.job.report import Progress
from lorajob.job.results import Metric, Scores, StageResult, verdict_of
from lorajob.job.states import JobState
from lorajob.languages import find_language
from lorajob.storage.urls import public
from lorajob.worker.queues import class_of, queue_name
from lorajob.worker.records.batches import JobBatch
from lorajob.worker.records.record import JobRecord

Description = dict[str, object]  # goes out as JSON
BASE_FIELDS = ("base_sha256", "base_commit")  # each is absent until it is known


def arguments(record: JobRecord, stage: str) -> dict[str, str]:
    """The text that events and Flower show as a task's arguments, instead of the job's id."""
    try:
        name = find_language(record.language).name
    except UsageError:  # an unknown language; the stage reports the error
        name = record.language
    return {
        "argsrepr": f"{record.id} ({name}, {stage})",
        "kwargsrepr": f"language={record.language} stage={stage} base={public(record.base_model)}",
    }


def progress_line(language: str, stage: str, progress: Progress) -> str:
    """A running task's result in Flower: `hi train 120/180 (66 %), loss 1.930, 65 s left`."""
    done = percent(progress)
    words = "" if done is None else f" ({done} %)"
    parts = [f"{language} {stage} {progress.step}/{progress.total}{words}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.eta_seconds is not None:
        parts.append(f"{progress.eta_seconds:.0f} s left")
    return ", ".join(parts)


def progress_meta(language: str, stage: str, progress: Progress) -> Description:
    """The progress as metadata of a task's state in Celery: all its fields, and `percent`."""
    meta: Description = {"language": language, "stage": stage}
    meta |= progress.model_dump(mode="json")
    done = percent(progress)
    return meta if done is None else meta | {"percent": done}


def percent(progress: Progress) -> int | None:
    """How much of a stage is done, rounded down; None if that is not known."""
    if progress.step is None or progress.total is None or progress.total <= 0:
        return None
    return 100 * progress.step // progress.total


def stage_summary(stage: str, result: StageResult, metric: Metric = "wer") -> Description:
    """The main numbers of a stage's result, with error rates by `metric`. The record holds the
    whole result.
    """
    said = result.as_json()
    match stage:
        case "preprocess":
            names = ["train_clips", "train_hours", "test_clips", "test_hours"]
        case "train":
            names = ["steps", "epochs", "loss"]
        case "evaluate":
            rates: Description = {
                f"{name}_{metric}": _rounded(it, metric) for name, it in result.scores.items()
            }
            return rates | ({"warnings": result.warnings} if result.warnings else {})
        case _:
            rate = _rounded(result.converted, metric)
            found: Description = {metric: rate, "warnings": result.warnings}
            return found | ({"gate": result.gate} if result.gate else {})
    found = {name: said[name] for name in names if name in said}
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}


def _rounded(scores: Scores | None, metric: Metric) -> float | None:
    return None if scores is None else round(scores.rate(metric), 2)


@dataclass(frozen=True)
class Wait:
    """What one job waits for.

    `queue` is the class of queues that holds its next stage, `workers` the number of live workers
    that serve it, and `card_gb` the memory in GB of the card that it needs (None: any card).
    """

    queue: str
    workers: int
    card_gb: int | None = None
    after: str = ""  # why the last attempt failed, if the job waits for another one
    unfit: str = ""  # why a worker of the queue takes no work, if none does

    def __str__(self) -> str:
        return "; ".join(part for part in (self._place, self.after) if part)

    @property
    def _place(self) -> str:
        if self.workers:
            if self.workers == 1:
                return f"the only worker of the queue {self.queue} to be free"
            return f"a free one of {self.workers} workers of the queue {self.queue}"
        card = f", with a card of {self.card_gb} GB or more" if self.card_gb else ""
        if self.unfit:
            return f"a worker of the queue {self.queue}{card}; {self.unfit}"
        return f"a worker of the queue {self.queue}{card}; none is up"

    @property
    def short(self) -> str:
        """The same for a cell of a table."""
        return f"free {self.queue} worker" if self.workers else f"no {self.queue} worker"


def after_failure(record: JobRecord) -> str:
    """Why the last attempt at the job's stage failed, and when the next is due; "" if it did not.

    Only for failures that the job did not cause.
    """
    at = record.standing
    if not at.waits or at.stage is None or not record.stages[at.stage].losses:
        return ""
    ended = [entry for entry in record.ended if entry.stage == at.stage and entry.kind]
    if not ended:
        return ""
    stage, last = record.stages[at.stage], ended[-1]
    left = 0.0 if stage.due is None else stage.due - time.time()
    when = f"a new attempt in {left:.0f} s" if left >= 1 else "a new attempt"
    return f"{when}, after {stage.losses} failed; the last one, on {last.worker}: {last.why}"


def awaited_queue(record: JobRecord) -> str | None:
    """The queue, without its lane, that holds the job's next stage.

    None while a stage runs or all have ended.
    """
    at = record.standing
    if at.stage is None or at.over or at.stage_state not in ("queued", "waiting"):
        return None
    return class_of(queue_name(at.stage, record.lane, record.memory_class))


def _rates(scores: Scores) -> Description:
    """Normalised error rates in percent. The interval is None for one clip, and for old jobs."""
    between = None if scores.wer_interval is None else list(scores.wer_interval)
    rates = {"wer": scores.wer, "cer": scores.cer}
    return rates | {"wer_interval": between, "clips": scores.clips}


def state_of(records: Sequence[JobRecord], unknown: int = 0) -> JobState:
    """The state of a batch: queued until a job starts, running until all jobs have ended, then
    failed, cancelled or succeeded. `unknown` is the number of jobs that are not queued yet.
    """
    states: set[JobState] = {record.state for record in records}
    states |= {"queued"} if unknown else set()
    if "running" in states or ("queued" in states and states - {"queued", "rejected"}):
        return "running"
    if not states or "queued" in states:
        return "queued"
    if states & {"failed", "rejected"}:
        return "failed"
    return "cancelled" if "cancelled" in states else "succeeded"


def describe_batch(
    batch: JobBatch, records: Sequence[JobRecord], waits_for: Mapping[str, object]
) -> Description:
    """What `lorajob status BATCH --json` prints: a contract for scripts."""
    return {
        "id": batch.id,
        "state": state_of(records, len(batch.jobs) - len(records)),
        "created_at": batch.created_at,
        "user": batch.user,
        "priority": batch.priority,
        "states": dict(Counter(record.state for record in records)),
        "jobs": [describe(record, waits_for.get(record.id)) for record in records],
    }


def describe(record: JobRecord, waits_for: object = None) -> Description:
    """What `lorajob status JOB --json` prints: a contract for scripts."""
    stages = {
        name: stage.model_dump(
            mode="json", exclude={"attempt", "owner", "lease", "faults", "avoid", "due"}
        )
        for name, stage in record.stages.items()
    }
    results = {name: stage.result for name, stage in record.stages.items()}
    evaluated = results["evaluate"] or StageResult()
    trained = results["train"] or StageResult()
    checked = verdict_of(results) or StageResult()
    described: Description = {
        "id": record.id,
        "language": record.language,
        "name": record.name,
        "tags": record.tags,
        "batch": record.batch,
        "user": record.user,
        "priority": record.priority,
        "state": record.state,
        "waits_for": None if waits_for is None else str(waits_for),
        "created_at": record.created_at,
        "corpus": public(record.corpus),
        "base_model": public(record.base_model),
        "artifacts": record.folder,
        "cancel_requested": record.cancel_requested,
        "error": record.error,
        "attempts": [attempt.model_dump(mode="json") for attempt in record.ended],
        "stages": stages,
        "metrics": {name: _rates(scores) for name, scores in record.scores.items()},
        "improvement": evaluated.improvement.model_dump() if evaluated.improvement else None,
        "notes": [*trained.notes, *evaluated.notes, *evaluated.warnings],
        "gate": checked.gate,
        "gate_reasons": checked.gate_reasons,
        "guards": [guard.model_dump(mode="json") for guard in checked.guards],
    }
    if evaluated.unshared:
        described["unshared"] = {
            part: {name: _rates(scores) for name, scores in models.items()}
            for part, models in evaluated.unshared.items()
        }
    if evaluated.glossary is not None:
        counts = evaluated.glossary.model_dump(mode="json", exclude={"scores"})
        described["glossary"] = _rates(evaluated.glossary.scores) | counts
    base = zip(BASE_FIELDS, record.base, strict=True)
    return described | {name: value for name, value in base if value}
