"""The bodies of requests and answers of the REST API."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from lorajob.book.terms import LONGEST_TERM, MOST_SOUNDS, MOST_TERMS
from lorajob.job.states import JobState
from lorajob.server.web.auth import Role
from lorajob.worker.records.batches import JobBatch
from lorajob.worker.records.record import EndedAttempt, JobRecord

MOST_SPECS = 500  # in a batch
# Characters of a term with all its sounds, in any form of Unicode.
LONGEST_LINE = 4 * LONGEST_TERM * (MOST_SOUNDS + 1)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ErrorBody(_Answer):
    """What went wrong."""

    message: str
    """One line that says what to do."""
    type: str
    param: str | None = None
    """The wrong field."""
    code: str | None = None


class ErrorAnswer(_Answer):
    """Every error of the API."""

    error: ErrorBody


class Whoami(_Answer):
    """The server's version, and whose key the request has."""

    version: str
    user: str
    role: Role
    """`view` reads, `submit` also changes."""


class _Submission(_Body):
    preset: str = "default"
    """Settings to start from."""
    sets: list[str] = Field(default=[], max_length=1000)
    """Lines such as `train.epochs=2`, which override `spec`."""
    priority: Literal["high", "normal", "low"] = "normal"
    name: str | None = None
    """What to call the job; it is found by that name, too."""
    tags: dict[str, str] = {}


class JobSubmission(_Submission):
    """A new job."""

    spec: dict[str, JsonValue] = Field(
        examples=[{"language": "hi", "corpus": "/data/hi.tar.gz", "train": {"epochs": 2}}]
    )
    """Settings: `language`, `corpus`, `base_model`, `train` and so on, as in a file of `lorajob
    submit --spec`. Paths are absolute, on the workers' machines."""


class BatchSubmission(_Submission):
    """Jobs that are queued together."""

    specs: list[dict[str, JsonValue]] = Field(min_length=1, max_length=MOST_SPECS)
    """The settings of each job, as in a `JobSubmission`, and optionally its own `preset`."""
    anew: bool = False
    """Queue the batch even if the same one was submitted before."""


class JobCreated(_Answer):
    """A job was queued."""

    id: str
    twin: str | None = None
    """An earlier job with the same settings, of the last day."""


class JobTwin(_Answer):
    """An earlier job with the same settings."""

    twin: str | None


class BatchCreated(_Answer):
    """A batch was queued, or was there before."""

    id: str
    jobs: list[str]
    queued: int
    """How many jobs were queued now."""
    rejected: dict[str, str]
    """Job -> why, such as a missing corpus."""
    notes: list[str]
    """Texts and glossaries that have changed since their jobs were queued."""


class Changed(_Answer):
    """A change was made."""

    id: str
    state: str
    """The state that follows: cancelled, cancelling, queued, deleted."""


class BatchChanged(_Answer):
    """A change was made to jobs of a batch."""

    id: str
    jobs: list[str]
    notes: list[str]
    """Why others were not changed."""


class StageView(_Answer):
    """One stage of a job. Times are seconds since the epoch."""

    model_config = ConfigDict(extra="allow")

    state: Literal["waiting", "queued", "running", "succeeded", "failed", "cancelled"]
    attempts: int
    worker: str | None
    started_at: float | None
    finished_at: float | None
    progress: dict[str, JsonValue] | None
    result: dict[str, JsonValue] | None
    error: str | None


class JobView(_Answer):
    """A job, as `lorajob status JOB --json` describes it."""

    model_config = ConfigDict(extra="allow")

    id: str
    language: str
    name: str | None
    tags: dict[str, str]
    batch: str | None
    user: str | None
    priority: Literal["high", "normal", "low"]
    state: JobState
    waits_for: str | None
    """What a queued job waits for."""
    created_at: float
    corpus: str
    base_model: str
    artifacts: str
    """The job's folder."""
    cancel_requested: bool
    error: str | None
    attempts: list[EndedAttempt]
    stages: dict[str, StageView]
    metrics: dict[str, dict[str, JsonValue]]
    """base, delivered, tuned: `wer`, `cer` in percent, `wer_interval` (95 %, or null), `clips`."""
    improvement: dict[str, JsonValue] | None
    notes: list[str]
    gate: str | None
    gate_reasons: list[str] | None


class JobList(_Answer):
    """A page of jobs."""

    jobs: list[JobView]
    next: str | None
    """`after` of the next page; null at the end. A page may be empty and have a next one."""
    truncated: bool = False
    """Always false: every order has all jobs. Older versions left out old ones."""


class RecordList(_Answer):
    """A page of records, for lorajob itself on other machines."""

    records: list[JobRecord]
    waits: dict[str, str]
    """Job -> what it waits for."""
    waits_short: dict[str, str]
    next: str | None
    truncated: bool = False
    """Always false: every order has all jobs. Older versions left out old ones."""


class BatchView(_Answer):
    """A batch, as `lorajob status BATCH --json` describes it."""

    id: str
    state: str
    created_at: float
    user: str | None
    priority: str
    states: dict[str, int]
    jobs: list[JobView]


class BatchRecord(_Answer):
    """A batch and the records of its jobs, for lorajob itself on other machines."""

    batch: JobBatch
    records: list[JobRecord]
    waits: dict[str, str]
    """Job -> what it waits for."""
    waits_short: dict[str, str]


class StageFiles(_Answer):
    """The files of a finished stage."""

    files: int
    bytes: int
    sha256: str
    """Over the names, sizes and hashes of the files."""


class BaseFiles(_Answer):
    """The base model of a job."""

    model: str
    sha256: str | None
    commit: str | None
    here: Literal["same", "other", "absent", "unstated"]
    """Whether the server's machine has it: `absent` says it does not, `unstated` that an old job
    does not state its hash."""


class VerifiedJob(_Answer):
    """A job whose files were checked, as `lorajob verify --json` describes it."""

    ok: bool
    """Without faults."""
    id: str
    stages: dict[str, StageFiles]
    base: BaseFiles | None
    faults: list[str]
    """One sentence each."""


class PrunedJobs(_Answer):
    """Jobs that were deleted, or would be."""

    jobs: list[str]
    """Their ids, the one that ended first first."""
    corpora: list[str]
    """Folders of corpora that other machines sent and no job needs; they are deleted, too."""
    notes: list[str]
    """What could not be deleted."""


class DiskFolder(_Answer):
    """A folder of lorajob on the server's machine."""

    what: str
    path: str
    bytes: int
    alone_bytes: int
    """What its removal frees: files that jobs and the cache share are not counted."""
    removed_by: str


class DiskFolders(_Answer):
    """What lorajob keeps on the server's machine, as `lorajob status --disk --json` lists it."""

    items: list[DiskFolder]
    home: str
    free_bytes: int
    """On the disk of `home`."""


class ServiceNotes(_Answer):
    """What a user of the service should know."""

    notes: list[str]
    """Sentences on workers that take no work, damaged records and jobs that Redis has lost."""


class RebuiltJobs(_Answer):
    """Jobs whose records were restored from their files."""

    jobs: list[str]
    problems: list[str]
    """A sentence on each job that could not be restored."""
    foreign: list[str]
    """Jobs of another service, which were left alone."""
    leased: list[str]
    """Jobs that a worker ran a short time ago, which were left alone."""


class UtterancePage(_Answer):
    """Transcripts of test clips."""

    rows: list[dict[str, JsonValue]]
    """id, seconds, reference, and the text of each model."""
    total: int
    next: int | None
    """`offset` of the next page; null at the end."""


class LocalFile(_Body):
    """A file of the client's machine."""

    path: str = Field(max_length=4096)
    bytes: int = Field(ge=0)


class LocalFiles(_Body):
    """Files of the client's machine that the service may have, too."""

    files: list[LocalFile] = Field(max_length=1000)


class MissingFiles(_Answer):
    """The files that the service's machine does not have."""

    missing: list[str]


class UploadedCorpus(_Answer):
    """A corpus that is being sent."""

    received: int
    """How many of its bytes are here: the next `offset`."""
    corpus: str | None
    """Its path for a job, when all has come."""


class CorpusCheck(_Body):
    """A corpus to check, as the settings of a job that would read it."""

    spec: dict[str, JsonValue] = Field(examples=[{"language": "hi", "corpus": "/data/hi.tar.gz"}])
    sets: list[str] = Field(default=[], max_length=1000)
    quick: bool = True
    """Read only tables and the headers of audio. Otherwise all audio is decoded, which takes
    minutes."""


class ForecastRequest(_Body):
    """A job that may be submitted."""

    spec: dict[str, JsonValue] = Field(
        examples=[{"language": "hi", "corpus": "/data/hi.tar.gz", "train": {"epochs": 2}}]
    )
    preset: str = "default"
    sets: list[str] = Field(default=[], max_length=1000)


class NeedForecast(_Answer):
    """What a job will need. It is an estimate, made without its base model."""

    corpus: str
    language: str
    clips: dict[str, int]
    """Split -> clips that the corpus lists."""
    train_hours: float | None
    """Of usable speech; null if the corpus was too large to read in 20 s."""
    gpu_memory_gb: float
    """0 if it is unknown."""
    card_gb: int | None
    """Memory of the smallest class of cards that takes the job; null: any."""
    train_seconds: float | None
    """At the pace of an earlier job with the same base model; null without one."""
    like: str | None
    """That job."""
    errors: int | None
    """Findings of a quick check of the corpus; null as `train_hours`."""
    warnings: int | None


class SpokenPart(_Answer):
    """A part of a transcript. Times are seconds of the whole recording."""

    start: float
    end: float
    text: str


class SpokenText(_Answer):
    """A transcript."""

    job: str
    text: str
    seconds: float
    """Of sound."""
    parts: list[SpokenPart]


class LanguageView(_Answer):
    """A language that lorajob supports."""

    code: str
    name: str
    scripts: list[str]
    token: str
    """Whisper's language token."""
    metric: Literal["wer", "cer"]
    stand_in: bool
    """The token is that of another language."""
    note: str | None


class GlossaryTerm(_Answer):
    """A term of a glossary."""

    text: str
    sounds: list[str]
    """How it sounds, if that was given."""


class GlossaryTerms(_Answer):
    """The terms of a language or job."""

    name: str
    """Code of the language, or id of the job."""
    terms: list[GlossaryTerm]


class RemovedText(_Answer):
    """The text of a language was removed."""

    language: str
    """Its code."""


class GlossaryEdit(_Body):
    """Terms to add, or terms to remove."""

    add: list[Annotated[str, Field(max_length=LONGEST_LINE)]] = Field(
        default=[], max_length=MOST_TERMS, examples=[["Nairobi", "DGX Spark\tdee jee ex spark"]]
    )
    """Each as a line of a glossary's file: a term, and behind a tab how it sounds, several ways
    with `|` between them."""
    remove: list[Annotated[str, Field(max_length=LONGEST_LINE)]] = Field(
        default=[], max_length=MOST_TERMS
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.add) == bool(self.remove):
            raise ValueError("give terms to add, or terms to remove")
        return self
