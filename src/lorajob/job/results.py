"""The results of stages. They are small JSON objects, the same in Redis and in manifest.json.

Each stage returns its own model. `lorajob.stage` adds its cost: `seconds`, `cpu_seconds`,
`peak_memory_bytes`, and its `machine`. A written result is read as a StageResult.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

Metric = Literal["wer", "cer"]
# The metric in words, of errors.
ERRORS_OF: Mapping[Metric, str] = {"wer": "word errors", "cer": "character errors"}


class AsWritten(BaseModel):
    """JSON with some known fields. Unknown fields are kept, and unset fields are not written.

    So JSON that was read is written again unchanged.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields = write(self).items()
        return {name: value for name, value in fields if name in self.model_fields_set}


class Scores(AsWritten):
    """Error rates over a set of clips, in percent. `raw_` rates are of texts as they stand."""

    wer: float
    cer: float
    raw_wer: float
    raw_cer: float
    clips: int
    wer_interval: tuple[float, float] | None = None  # 95 %, of the normalised rate
    cer_interval: tuple[float, float] | None = None

    def rate(self, metric: Metric) -> float:
        """The normalised rate."""
        return self.wer if metric == "wer" else self.cer

    def interval(self, metric: Metric) -> tuple[float, float] | None:
        """The interval of the normalised rate."""
        return self.wer_interval if metric == "wer" else self.cer_interval


class Difference(AsWritten):
    """How much lower one error rate is than another on the same clips, in points, with the 95 %
    interval of the paired difference.
    """

    points: float
    interval: tuple[float, float]
    metric: Metric = "wer"  # older versions compared words in all languages


GuardState = Literal["passed", "failed", "not_checked", "reported"]
GateState = Literal["passed", "failed"]


class Guard(AsWritten):
    """One check of the delivered model. The figures are in `unit`; None if there is no such one."""

    name: str
    state: GuardState  # "reported" figures have no limit
    reason: str  # one sentence: what was measured, or why it was not
    value: float | None = None
    base: float | None = None  # the same of the base model
    limit: float | None = None
    unit: str = ""
    seconds: float | None = None  # that the check took


class GateFields(TypedDict):
    """The verdict of the gate, as fields of a result."""

    gate: GateState | None
    gate_reasons: list[str]
    guards: list[Guard]


def gate_fields(guards: Sequence[Guard]) -> GateFields:
    """The fields of a result that follow from all guards. `gate` is None if none was checked."""
    failed = [it.reason for it in guards if it.state == "failed"]
    checked = any(it.state in ("passed", "failed") for it in guards)
    state: GateState | None = ("failed" if failed else "passed") if checked else None
    return {"gate": state, "gate_reasons": failed, "guards": list(guards)}


def unchecked(guards: Sequence[Guard]) -> list[str]:
    """The names of the guards that were not checked."""
    return [it.name for it in guards if it.state == "not_checked"]


def gate_words(state: str | None, left: int) -> str:
    """The verdict for people. `left` guards were not checked: `passed, 2 not checked`."""
    return f"passed, {left} not checked" if state == "passed" and left else state or "not checked"


class PreprocessResult(BaseModel, frozen=True):
    train_clips: int
    train_hours: float
    test_clips: int
    test_hours: float
    dropped: dict[str, int]  # reason -> clips
    bytes: int
    noted: dict[str, int] = {}  # remark -> clips that were kept nevertheless
    unused: dict[
        str, int
    ] = {}  # reason -> rows, such as those of a split that the job does not use
    examples: dict[str, str] = {}  # reason or remark -> one clip and why


class ValidationPoint(BaseModel, frozen=True):
    """Error rates of the held-back clips after a step, in percent, and what decoding took."""

    step: int
    wer: float
    cer: float
    seconds: float


class AugmentationTrial(BaseModel, frozen=True):
    """How a trial of augmentation ended, on the held-back clips."""

    kept: bool  # whether the model was trained with augmentation
    plain: ValidationPoint
    augmented: ValidationPoint
    difference: Difference  # of `augmented` over `plain`, by the metric of the language


class TrainResult(BaseModel, frozen=True):
    steps: int
    epochs: float
    loss: float  # mean over the last tenth of the steps, nats for each token
    trainable_parameters: int
    resumed_from: int  # the step this attempt started at
    kept: str = "last"  # the weights: of the last step, "average", or the number of a step
    share: float = 1.0  # of the training in these weights (train.interpolate)
    validation_clips: int = 0
    validation: list[ValidationPoint] = []
    stopped_early: bool = False
    augmented: bool | None = None  # whether with altered sound; None if nothing asked for it
    augmentation: AugmentationTrial | None = None
    notes: list[str] = []  # what a reader of the figures has to know
    start: str | None = None  # the job whose adapter it started from
    start_sha256: str | None = None  # of that adapter's weights
    warnings: list[str] = []  # such as a tracker that failed


# What is new in the test clips of a part, in words.
PARTS: Mapping[str, str] = {
    "speakers": "new speakers",
    "sentences": "new sentences",
    "both": "new speakers and sentences",
}


class GlossaryScores(AsWritten):
    """The test clips decoded by lorajob's decoder with the glossary of `evaluate.glossary`.

    A term counts as often as it is said; a false alarm is a term that was not. The counts `_before`
    are those of `tuned`, which has no glossary.
    """

    scores: Scores
    terms: int  # of the glossary
    said: int  # in the test clips
    missed: int
    missed_before: int
    false_alarms: int
    false_alarms_before: int
    words: int  # of the test clips; characters in languages without spaces


class EvaluateResult(BaseModel, frozen=True):
    base: Scores  # by faster-whisper's defaults, on all or the first clips of `delivered`
    delivered: Scores  # the converted model by faster-whisper's defaults, on a sample
    tuned: Scores  # the converted model by lorajob's decoder, on all test clips
    # Of `delivered` over `base`, on the clips that both have; None for a single one.
    improvement: Difference | None
    delivered_on_base_clips: Scores | None = None  # None if `base` has all clips of `delivered`
    notes: list[str]  # what a reader of the figures has to know
    warnings: list[str]
    # Part of the test clips -> model -> scores: see `Shared.parts`. Empty if nothing is shared.
    unshared: dict[str, dict[str, Scores]] = {}
    glossary: GlossaryScores | None = None  # None without evaluate.glossary
    gate: GateState | None = None  # `convert` adds its own guard
    gate_reasons: list[str] = []
    guards: list[Guard] = []


class ConvertResult(BaseModel, frozen=True):
    converted: Scores  # deprecated: equals `delivered` of evaluation
    by_type: dict[str, Scores]  # by lorajob's decoder, all on the same few clips
    max_logprob_difference: float  # teacher-forced, float32 conversion against transformers
    model: str  # folder of the model, relative to the job
    warnings: list[str]
    gate: GateState | None = None  # of evaluation's guards and the conversion's
    gate_reasons: list[str] = []
    guards: list[Guard] = []


class StageResult(AsWritten):
    """The result of any stage, as read from a manifest or a record.

    It has the fields that are used outside their stage. A field is None if the stage does not
    measure it.
    """

    base: Scores | None = None  # of evaluate
    delivered: Scores | None = None
    tuned: Scores | None = None
    improvement: Difference | None = None
    delivered_on_base_clips: Scores | None = None
    notes: list[str] = []
    unshared: dict[str, dict[str, Scores]] = {}
    glossary: GlossaryScores | None = None
    converted: Scores | None = None  # of convert; deprecated
    by_type: dict[str, Scores] | None = None
    start: str | None = None  # of train: the job whose adapter it started from
    start_sha256: str | None = None
    max_logprob_difference: float | None = None
    model: str | None = None
    warnings: list[str] = []
    # Of evaluate and convert; None in results of older versions, and if nothing was checked.
    gate: GateState | None = None
    gate_reasons: list[str] = []  # one for each guard that failed
    guards: list[Guard] = []
    # Of every stage; None in results of older versions.
    base_sha256: str | None = None  # identity of the base model (whisper/identity.py)
    base_commit: str | None = None  # its commit on the Hub; None for a model from elsewhere
    spec_sha256: str | None = None  # of the settings in spec.json
    inputs: dict[str, str] | None = None  # earlier stage -> hash of the files that it committed

    @property
    def gate_words(self) -> str:
        """The verdict of the gate for people."""
        return gate_words(self.gate, len(unchecked(self.guards)))

    def as_json(self) -> dict[str, object]:
        """The result as JSON values."""
        return self.model_dump(mode="json")

    @property
    def scores(self) -> dict[str, Scores]:
        """The scores that this stage measured: base, delivered, tuned, converted."""
        found = {
            "base": self.base,
            "delivered": self.delivered,
            "tuned": self.tuned,
            "converted": self.converted,
        }
        return {name: scores for name, scores in found.items() if scores is not None}


def headline(scores: Mapping[str, Scores]) -> str | None:
    """The name of the figure to show first: `delivered`, or `tuned` of an older job; else None."""
    return next((name for name in ("delivered", "tuned") if name in scores), None)


def scores_there(result: StageResult | None) -> Scores | None:
    """The scores of the figure to show first, on the clips of `base`; None if they are unknown."""
    if result is None or (name := headline(result.scores)) is None:
        return None
    return result.delivered_on_base_clips or result.scores[name]


def fewer_errors(result: StageResult | None, metric: Metric) -> float | None:
    """How many errors fewer than the base a model has, in percent of the base's errors.

    `result` is that of `evaluate`. Both are counted on the clips of the base. None if one of them
    is unknown, or if the base has no errors.
    """
    after = scores_there(result)
    if result is None or after is None or result.base is None:
        return None
    before, now = result.base.rate(metric), after.rate(metric)
    return 100 * (1 - now / before) if before else None


def verdict_of(stages: Mapping[str, StageResult | None]) -> StageResult | None:
    """The result that has the verdict of the gate: convert's, or evaluate's before; else None."""
    for stage in ("convert", "evaluate"):
        result = stages.get(stage)
        if result is not None and result.guards:
            return result
    return None
