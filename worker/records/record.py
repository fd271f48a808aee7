"""The record of a job. Redis holds it as one hash; job.json is a copy."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lorajob.errors import RecordError
from lorajob.job.jobdir import STAGES
from lorajob.job.report import Progress
from lorajob.job.results import Scores, StageResult
from lorajob.job.states import JobState, StageState
from lorajob.storage.locations import Folder, open_location
from lorajob.storage.store import Store
from lorajob.worker.queues import Priority
from lorajob.worker.records.standing import Standing, missing_stages, standing

JSON_FIELDS = ("progress", "result", "faults", "avoid")  # of a stage
LISTS = ("ended", "more_corpora", "tags")  # of a job, kept as JSON
SHOWN_FAULTS = 3  # of a damaged record
MEASURED = ("evaluate", "convert")  # the stages that measure error rates


class EndedAttempt(BaseModel):
    """An ended attempt at a stage: its worker, its last step and why it ended."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    stage: str
    number: int
    worker: str
    started_at: float
    ended_at: float
    step: int | None = None  # the last reported step
    why: str  # succeeded, cancelled, failed: ..., or why it is retried
    kind: str | None = None  # of a loss, such as lost, files, card or network


class StageRecord(BaseModel):
    """One stage of a job. Times are seconds since the epoch, by Redis's clock."""

    model_config = ConfigDict(
        frozen=True, validate_by_name=True, serialize_by_alias=True, allow_inf_nan=False
    )

    state: StageState = "waiting"  # waiting: an earlier stage comes first
    attempts: int = 0  # how often it was claimed
    worker: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    progress: Progress | None = None
    result: StageResult | None = None
    error: str | None = None
    attempt: int = Field(default=0, alias="fence")  # of the last claim; each raises it
    owner: str | None = None
    lease: float | None = None  # end of the time in which the owner counts as alive
    checkpoint: int | None = None  # the newest saved step
    losses: int = 0  # retryable failures in a row without a newer checkpoint
    faults: dict[str, int] = {}  # the same by kind
    avoid: tuple[str, ...] = ()  # the workers of these failures; others go first
    due: float | None = None  # when a queued stage is tried again


class JobRecord(BaseModel):
    """One job: what was submitted, and its progress."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    id: str
    language: str
    state: JobState = "queued"
    created_at: float  # seconds since the epoch
    corpus: str
    more_corpora: tuple[str, ...] = ()  # further corpora: to train, to test, of the gate
    base_model: str
    folder: str
    error: str | None = None
    cancel_requested: bool = False
    user: str | None = None  # who submitted it
    name: str | None = None  # what the user calls it; other jobs may have the same name
    tags: dict[str, str] = {}
    batch: str | None = None  # the batch that it belongs to
    version: int = 0  # the format of its settings, as in spec.py; 0: older than formats
    service: str | None = None  # the id of its service (origin.py); None: of an older version
    redis: str | None = None  # the address of that service's Redis
    priority: Priority = "normal"
    lane: int = 0  # the lane of its batch or user, as `Records.create` found it
    memory_class: int | None = None  # GB of the smallest card that it fits; None: any
    revision: int = 0  # raised by every change of state
    ended: tuple[EndedAttempt, ...] = ()  # the last hundred, oldest first
    stages: dict[str, StageRecord]

    @field_validator("stages")
    @classmethod
    def _all_stages(cls, stages: dict[str, StageRecord]) -> dict[str, StageRecord]:
        if set(stages) != set(STAGES):
            raise ValueError(f"must be {', '.join(STAGES)}")
        return {name: stages[name] for name in STAGES}

    @property
    def over(self) -> bool:
        """True if the job has ended; only a user can continue it."""
        return self.standing.over

    @property
    def missing(self) -> tuple[str, ...]:
        """The stages that have not succeeded, in order."""
        return missing_stages({name: stage.state for name, stage in self.stages.items()})

    @property
    def standing(self) -> Standing:
        """The stage that the job is at, and its state there."""
        return standing(
            self.language,
            self.state,
            self.memory_class,
            {name: stage.state for name, stage in self.stages.items()},
            {name: stage.worker for name, stage in self.stages.items()},
            self.scores,
        )

    @property
    def scores(self) -> dict[str, Scores]:
        """The scores on the test clips, as far as known: base, delivered, tuned, converted."""
        results = [self.stages[name].result for name in MEASURED]
        return {
            name: scores
            for result in results
            if result is not None
            for name, scores in result.scores.items()
        }

    @property
    def base(self) -> tuple[str | None, str | None]:
        """Hash and Hub commit of the base model that the first finished stage used."""
        for stage in self.stages.values():
            if stage.result is not None and stage.result.base_sha256 is not None:
                return stage.result.base_sha256, stage.result.base_commit
        return None, None

    @property
    def location(self) -> Folder | Store:
        """The place of the job's files."""
        return open_location(self.folder)

    def save(self) -> None:
        """Write job.json beside the job's files. Raises OSError or StoreError."""
        self.location.write_json("job.json", self.model_dump(mode="json"))

    def to_hash(self) -> dict[Any, str]:
        """The record as flat text fields, such as `train.state`. None, empty and version 0 are
        left out.
        """
        apart = {"stages", "ended", "more_corpora", "tags"}
        fields = self.model_dump(mode="json", exclude=apart, exclude_none=True)
        fields["cancel_requested"] = int(self.cancel_requested)
        if not self.version:
            del fields["version"]
        if self.ended:
            fields["ended"] = json.dumps([entry.model_dump(mode="json") for entry in self.ended])
        if self.more_corpora:
            fields["more_corpora"] = json.dumps(self.more_corpora)
        if self.tags:
            fields["tags"] = json.dumps(self.tags)
        for name, stage in self.stages.items():
            for field, value in stage.model_dump(mode="json").items():
                if value is None:
                    continue
                if field in ("faults", "avoid") and not value:
                    continue
                whole = isinstance(value, dict | list)
                text = json.dumps(value, ensure_ascii=False) if whole else value
                fields[f"{name}.{field}"] = text
        return {name: str(value) for name, value in fields.items()}

    @classmethod
    def from_hash(cls, fields: dict[str, str]) -> "JobRecord":
        """The record of the fields from `to_hash`. Raises RecordError if they are malformed."""
        values: dict[str, Any] = {"stages": {name: {} for name in STAGES}}
        try:
            "".join(fields.values()).encode()  # bytes that were no text are surrogates here
            for name, text in fields.items():
                stage, dot, field = name.partition(".")
                if not dot:
                    values[name] = _parsed(text) if name in LISTS else text
                else:
                    value = _parsed(text) if field in JSON_FIELDS else text
                    values["stages"][stage][field] = value
            return cls.model_validate(values)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            job_id = fields.get("id")
            raise RecordError(f"the record of {job_id!r} is damaged: {_why(error)}") from None

    @classmethod
    def read(cls, path: Path) -> "JobRecord":
        """The record in a job.json. Raises RecordError if it is malformed, OSError from reading."""
        return cls.parse(path.read_bytes(), path)

    @classmethod
    def parse(cls, data: bytes, place: Path | str) -> "JobRecord":
        """Parse the content of the job.json at `place`. Raises RecordError."""
        try:
            return cls.model_validate_json(data)
        except ValueError as error:
            raise RecordError(f"{place} is damaged: {_why(error)}") from None


def _why(error: Exception) -> str:
    """The first faults on one line."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False)[:SHOWN_FAULTS]
        return "; ".join(f"{'.'.join(map(str, it['loc'])) or 'JSON'}: {it['msg']}" for it in found)
    return " ".join(str(error).split())


def _parsed(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, also for half of a surrogate pair."""
    value = json.loads(text)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def new_stages() -> dict[str, StageRecord]:
    """The stages of a new job: the first is queued, the others are waiting."""
    first, *others = STAGES
    return {first: StageRecord(state="queued")} | {name: StageRecord() for name in others}
