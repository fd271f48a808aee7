"""The results of stages. They are small JSON objects, the same in Redis and in manifest.json.

Each stage returns its own model. `lorajob.stage` adds its cost: `seconds`, `cpu_seconds`,
`peak_memory_bytes`. A written result is read as a StageResult.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class AsWritten(BaseModel):
    """JSON with some known fields. Unknown fields are kept, and unset fields are not written.

    So JSON that was read is written again unchanged.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = write(self).items()
        return {name: value for name, value in fields if name in self.model_fields_set}


class Scores(BaseModel, frozen=True):
    """Error rates over a set of clips, in percent. `raw_` rates are of texts as they stand."""

    wer: float
    cer: float
    raw_wer: float
    raw_cer: float
    clips: int


class PreprocessResult(BaseModel, frozen=True):
    train_clips: int
    train_hours: float
    test_clips: int
    test_hours: float
    dropped: dict[str, int]  # reason -> clips
    bytes: int
    noted: dict[str, int] = {}  # remark -> clips that were kept in spite of it
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


class TrainResult(BaseModel, frozen=True):
    steps: int
    epochs: float
    loss: float  # mean over the last tenth of the steps, nats for each token
    trainable_parameters: int
    resumed_from: int  # the step this attempt started at
    kept: str = "last"  # the weights: of the last step, "average", or the number of a step
    validation_clips: int = 0
    validation: list[ValidationPoint] = []
    stopped_early: bool = False


class EvaluateResult(BaseModel, frozen=True):
    base: Scores
    tuned: Scores


class ConvertResult(BaseModel, frozen=True):
    converted: Scores  # of the first compute type, on all test clips
    by_type: dict[str, Scores]
    max_logprob_difference: float  # teacher-forced, float32 conversion against transformers
    model: str  # folder of the model, relative to the job
    warnings: list[str]


class StageResult(AsWritten):
    """The result of any stage, as read from a manifest or a record.

    It has the fields that are used outside their stage. A field is None if the stage does not
    measure it.
    """

    base: Scores | None = None  # of evaluate
    tuned: Scores | None = None
    converted: Scores | None = None  # of convert
    by_type: dict[str, Scores] | None = None
    max_logprob_difference: float | None = None
    model: str | None = None
    warnings: list[str] = []
    # Of every stage; None in results of older versions.
    base_sha256: str | None = None  # identity of the base model (whisper/identity.py)
    base_commit: str | None = None  # its commit on the Hub; None for a model from elsewhere
    inputs: dict[str, str] | None = None  # earlier stage -> hash of the files that it committed

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return self.model_dump(mode="json")

    @property
    def scores(self) -> dict[str, Scores]:
        """The scores of the models that this stage measured: base, tuned, converted."""
        found = {"base": self.base, "tuned": self.tuned, "converted": self.converted}
        return {name: scores for name, scores in found.items() if scores is not None}
