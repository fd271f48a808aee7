"""What each stage returns: small, JSON, the same by hand, in Redis and in manifest.json.

`lorajob.stage` adds what the stage took: `seconds`, `cpu_seconds`, `peak_memory_bytes`.
"""

from pydantic import BaseModel


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
