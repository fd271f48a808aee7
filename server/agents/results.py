"""What the tools answer. Error rates are in percent, times in seconds."""

from pydantic import BaseModel, ConfigDict

from lorajob.client.models import PromotedModel
from lorajob.server.web.models import LanguageView

MOST_TEXT = 500  # letters of one text


class _Answer(BaseModel):
    # A newer service may say more.
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


def short(text: str, most: int = MOST_TEXT) -> str:
    """A text of at most about `most` letters, which says how many were left out."""
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most} more letters]"


class LanguageList(_Answer):
    """A page of languages."""

    languages: list[LanguageView]
    total: int
    """Of all pages."""
    next_offset: int | None
    """`offset` of the next page; null at the end."""


class SplitTotals(_Answer):
    """Counts of one split of a corpus."""

    clips: int
    dropped: int
    """Clips that a job would not use."""
    hours: float
    speakers: int
    words: int
    vocabulary: int


class FaultyClip(_Answer):
    """A clip with a fault."""

    id: str
    split: str
    text: str
    detail: str


class FoundFault(_Answer):
    """A fault that some clips of a corpus have."""

    name: str
    level: str
    """error or warning."""
    says: str
    count: int
    """Of clips."""
    advice: str
    examples: list[FaultyClip]


class CheckedCorpus(_Answer):
    """The check of a corpus."""

    corpus: str
    language: str
    quick: bool
    """Only tables and headers of audio were read."""
    errors: int
    """Findings that should be mended before a job is submitted."""
    warnings: int
    findings: list[FoundFault]
    splits: dict[str, SplitTotals]
    total: SplitTotals
    unused: dict[str, int]
    """Rows that a job would not use, by the reason."""
    notes: list[str]
    """What could not be checked."""
    next: str
    """What to do next."""


class JobForecast(_Answer):
    """What a job will need."""

    corpus: str
    language: str
    clips: dict[str, int]
    """Of each split, as the tables list them."""
    train_hours: float | None
    """Null: not all clips were read in time."""
    train_seconds: float | None
    """Duration of the training; null if no finished job has this base model."""
    like: str | None
    """The job that the duration is from."""
    gpu_memory_gb: float
    """0: unknown."""
    card_gb: int | None
    """Memory of the cards that the job waits for; null: any card, or the CPU."""
    errors: int | None
    warnings: int | None
    next: str
    """What to do next."""


class JobSubmitted(_Answer):
    """A job was queued."""

    job: str
    twin: str | None
    """An earlier job with the same settings, of the last day."""
    next: str
    """What to do next."""


class JobStatus(_Answer):
    """How a job is doing."""

    job: str
    name: str | None
    language: str
    state: str
    """queued, running, succeeded, failed, cancelled or rejected."""
    stage: str | None
    """The stage that runs or waits: preprocess, train, evaluate or convert."""
    percent: int | None
    """Of that stage."""
    eta_seconds: float | None
    """Until the end of that stage."""
    waits_for: str | None
    error: str | None
    user: str | None
    created_at: float
    """Seconds since the epoch."""
    corpus: str
    base_model: str
    metric: str
    """The error rate of the two following fields: wer or cer."""
    before: float | None
    """Of the base model, on the first of the test clips of `after`, or on all."""
    after: float | None
    """Of the tuned model."""
    gate: str | None
    """Whether the model passed its checks: passed or failed."""
    next: str
    """What to do next."""


class StatusPage(_Answer):
    """A page of jobs, the newest first; or the one job that was asked for."""

    jobs: list[JobStatus]
    next_after: str | None
    """`after` of the next page; null at the end."""


class JobChanged(_Answer):
    """A job was changed."""

    job: str
    state: str
    """The state that follows."""
    next: str
    """What to do next."""


class Rates(_Answer):
    """Error rates of one model in percent, with intervals of 95 %."""

    wer: float
    wer_interval: tuple[float, float] | None = None
    cer: float
    cer_interval: tuple[float, float] | None = None
    clips: int


class WorstClip(_Answer):
    """A test clip with many errors."""

    id: str
    seconds: float
    errors: int
    """Wrong, missing and added words; characters, if the metric is cer."""
    reference: str
    base: str | None = None
    """What the base model heard."""
    tuned: str | None = None
    """What the tuned model heard."""


class JobReport(_Answer):
    """The figures of a job."""

    job: str
    language: str
    metric: str
    """The error rate to judge the model by: wer or cer."""
    base: Rates | None
    """The base model, before the training."""
    tuned: Rates | None
    """The tuned model with lorajob's decoder."""
    delivered: Rates | None
    """The delivered model with faster-whisper's defaults."""
    gate: str | None
    gate_reasons: list[str]
    notes: list[str]
    worst_clips: list[WorstClip]
    page: str
    """The HTML report: a path, or a url that needs the key."""
    next: str
    """What to do next."""


class Paired(_Answer):
    """A job against the first one, on the same clips."""

    fewer_errors: float
    """In percent of the first job's errors; below zero: more errors."""
    interval: tuple[float, float] | None
    """95 %, of `fewer_errors`; null for a single clip."""
    certain: bool
    """Whether the interval of 95 % leaves zero out."""


class ComparedJob(_Answer):
    """A job of a comparison."""

    job: str
    base_model: str
    corpus: str
    wer: float
    wer_interval: tuple[float, float] | None
    """95 %; null for a single clip."""
    cer: float
    cer_interval: tuple[float, float] | None
    """95 %; null for a single clip."""
    change: Paired | None
    """Null for the first job."""


class JobComparison(_Answer):
    """Jobs on the test clips that all of them have."""

    clips: int
    metric: str
    """The error rate of the language, wer or cer: `change` counts its errors."""
    left_out: dict[str, int]
    """Job -> its clips that were not compared."""
    jobs: list[ComparedJob]
    settings: dict[str, list[str]]
    """Settings that differ, in the order of the jobs."""
    next: str
    """What to do next."""


class BestRow(_Answer):
    """The best delivered model of a language."""

    language: str
    job: str
    name: str | None = None
    metric: str
    before: float | None = None
    after: float
    interval: tuple[float, float] | None = None
    clips: int
    base_model: str
    gate: str | None = None


class ModelList(_Answer):
    """The models of the service."""

    promoted: list[PromotedModel]
    best: list[BestRow]
    """Of each language, whether or not it is promoted."""
    more_languages: int
    """Languages that were left out of `best`; name one to see it."""
    next: str
    """What to do next."""


class PromotionPlan(_Answer):
    """A promotion that was made, or that waits for a confirmation."""

    job: str
    language: str
    promoted: bool
    instead_of: str | None
    """The job whose model was used before."""
    forced: bool
    """The gate of the model failed."""
    next: str
    """What to do next."""


class GlossaryTotals(_Answer):
    """How many terms a language or job has."""

    name: str
    terms: int
    damaged: str | None = None
    """What is wrong with its file, and what to do; null for a whole one."""


class GlossaryAnswer(_Answer):
    """A page of the glossaries, or of the terms of one."""

    glossaries: list[GlossaryTotals]
    terms: list[str] = []
    next_offset: int | None = None
    """`offset` of the next page; null at the end."""
    added: int = 0
    """Terms that are new."""
    next: str
