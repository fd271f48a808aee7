"""What each stage returns: small, JSON, the same by hand, in Redis and in manifest.json.

A stage returns its own model. `lorajob.stage` adds what the stage took: `seconds`, `cpu_seconds`,
`peak_memory_bytes`. Once written, every result is read as a StageResult.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class AsWritten(BaseModel):
    """JSON of which some fields are known. The others are kept, and none is added: what was read
    is written again as it was.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = write(self).items()
        return {name: value for name, value in fields if name in self.model_fields_set}


class Scores(BaseModel, frozen=True):
    """Error rates in percent over a set of clips; `raw_` before normalising both sides."""

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


class TrainResult(BaseModel, frozen=True):
    steps: int
    epochs: float
    loss: float  # mean of the last tenth of the steps, nats a token
    trainable_parameters: int
    resumed_from: int  # the step this attempt started at


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
    """The result of any stage, as a manifest or a record has it. The fields are those that are read
    outside their stage; each is set if the stage measured it.
    """

    base: Scores | None = None  # of evaluate
    tuned: Scores | None = None
    converted: Scores | None = None  # of convert
    by_type: dict[str, Scores] | None = None
    max_logprob_difference: float | None = None
    model: str | None = None
    warnings: list[str] = []

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return self.model_dump(mode="json")

    @property
    def scores(self) -> dict[str, Scores]:
        """Of the models that this stage measured: base, tuned, converted."""
        found = {"base": self.base, "tuned": self.tuned, "converted": self.converted}
        return {name: scores for name, scores in found.items() if scores is not None}
