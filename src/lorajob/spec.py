"""JobSpec: everything that decides what a job computes, and nothing about where it runs."""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from lorajob.errors import UsageError
from lorajob.languages import find_language
from lorajob.spec_yaml import read_yaml

Fraction = Annotated[float, Field(ge=0, le=1)]
ComputeType = Literal["float16", "int8", "int8_float16", "int8_float32", "float32"]
# The text under a field is its description: in the schema and in `lorajob submit --help`.
FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
MAX_LABEL_TOKENS = 444  # 448 decoder positions less the four tokens of the prompt
ENOUGH_CUT = 0.2  # share of cut clips from which a model is trusted to decode such
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
DEFAULT_BASE_MODEL = "openai/whisper-small"


class PreprocessConfig(BaseModel):
    """Which clips are used and how they are kept."""

    model_config = FROZEN

    train_splits: Annotated[tuple[str, ...], Field(min_length=1)] = ("train", "dev")
    """Splits of the corpus to train on."""
    test_split: str = "test"
    """Split that the error rates are measured on."""
    test_share: Fraction = 0.1
    """Share of the clips, by speaker, set aside where the corpus has no test split."""
    min_seconds: PositiveFloat = 0.3
    """Shorter clips are dropped."""
    max_seconds: Annotated[float, Field(gt=0, le=30)] = 30.0
    """Longer clips are dropped; the encoder sees 30 s and no more."""
    max_label_tokens: Annotated[int, Field(gt=0, le=MAX_LABEL_TOKENS)] = MAX_LABEL_TOKENS
    """Clips whose text takes more tokens are dropped."""
    max_train_clips: PositiveInt | None = None
    """Use at most so many clips to train on."""
    max_test_clips: PositiveInt | None = None
    """Keep at most so many test clips."""
    audio_format: Literal["flac", "pcm16"] = "flac"
    """How a clip's audio is kept: flac is half the size, pcm16 reads faster."""


class TrainConfig(BaseModel):
    """Hyper-parameters of one LoRA run."""

    model_config = FROZEN

    rank: PositiveInt = 32
    """Rank of the LoRA matrices."""
    alpha: PositiveInt = 64
    """Scale of the adapter; alpha / rank multiplies its output."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of the adapter; on a CPU it makes a pass up to a quarter dearer."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = ALL_LINEAR
    """Layers that get an adapter; the public recipe's q_proj and v_proj alone learn far slower."""
    decoder_only: bool = False
    """Adapt the decoder alone: cheaper, since the encoder needs no backward pass, and weaker."""
    encoder_outputs_gb: Annotated[float, Field(ge=0)] = 8.0
    """Most disk, in GB, for what the encoder makes of clips while decoder_only trains, so that it
    hears a clip once, not in every epoch; 0 stores nothing."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate; null picks one by the base model's width and the clips a step."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """Steps of linear warm-up; at most a tenth of all steps is used."""
    decay: Fraction = 0.4
    """Share of all steps, the last, over which the learning rate falls to 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    epochs: PositiveInt = 3
    """Passes over the training clips."""
    batch_clips: PositiveInt | None = None
    """Clips an optimizer step; null is 8 on a CPU, 16 to 64 for each GPU by its size, and fewer if
    so many would make few steps."""
    micro_batch: PositiveInt | None = None
    """Windows of 30 s a forward pass, or as much audio in cut ones; null is what a card's memory
    takes, and 1 on a CPU."""
    packing: bool = True
    """Put clips that are neither single nor cut into common windows of 30 s; false pads each."""
    single_clips: Fraction = 0.03
    """Share of clips alone in a window padded to 30 s, so that short input works too."""
    audio_context: Literal["dynamic", "full"] = "dynamic"
    """dynamic trains some windows cut to their clip's length, which is cheap and lets the model
    decode without padding; full pads each to 30 s."""
    cut_clips: Fraction = 0.87
    """Share of clips alone in a window cut to their length, where audio_context is dynamic."""
    timestamps: Fraction = 0.5
    """Share of packed windows trained with timestamps, so that they are not forgotten."""
    one_speaker: bool = False
    """Pack only clips of one speaker into a window."""
    quantization: Literal["auto", "8bit", "4bit", "none"] = "auto"
    """Precision of the frozen base weights; auto is none if they fit the GPU's memory, else 8bit,
    else 4bit; on a CPU it is none."""
    precision: Literal["auto", "bf16", "fp16", "float32"] = "auto"
    """Precision of the arithmetic; auto is the best that the device has."""
    gradient_checkpointing: bool = False
    """Trade time for memory: recompute activations on the way back."""
    cuda_graphs: bool = True
    """Record each shape of a pass once and play it again, so that a GPU does not wait for the
    program; only with unquantised weights on GPUs of compute capability 8.0 and newer."""
    save_steps: PositiveInt = 50
    """Optimizer steps from one checkpoint to the next."""
    save_seconds: Annotated[float, Field(ge=0)] | None = None
    """Least seconds from one checkpoint to the next; null is 60 beside a GPU, which takes many
    steps in a second, and 0 on a CPU."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints kept; older ones are deleted."""
    threads: PositiveInt | None = None
    """CPU threads of the stage; null is as many as torch finds."""
    loader_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that prepare batches; null is up to 8 for each GPU, by the cores there are, and 0
    without."""


class EvaluateConfig(BaseModel):
    """How the test clips are decoded and scored."""

    model_config = FROZEN

    max_clips: PositiveInt | None = None
    """Score at most so many of the test clips."""
    batch_size: PositiveInt = 16
    """Windows of 30 s decoded at a time, or up to twice as many clips that are not padded."""
    beam_size: PositiveInt = 1
    """Beams of the search; 1 is greedy."""
    audio_context: Literal["auto", "dynamic", "full"] = "auto"
    """dynamic decodes clips without padding them to 30 s, in less time; auto does so where the
    model was trained for it. The base model always gets full windows."""


class ConvertConfig(BaseModel):
    """What is made for CTranslate2 and how it is checked."""

    model_config = FROZEN

    compute_types: Annotated[tuple[ComputeType, ...], Field(min_length=1)] = ("float16",)
    """Types to convert to; the first is the job's result."""
    check_clips: PositiveInt = 16
    """Test clips decoded by transformers and by faster-whisper, to be compared."""


class JobSpec(BaseModel):
    """One job: a language, a corpus, a base model, and one config a stage."""

    model_config = FROZEN

    language: str
    """Code or name of the language, such as hi or Hindi."""
    corpus: str
    """Common Voice release (tar.gz or folder) or manifest (TSV, CSV, JSONL)."""
    base_model: str = DEFAULT_BASE_MODEL
    """Hub id, folder of a transformers or CTranslate2 Whisper, or demo/whisper-base."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything random."""
    preprocess: PreprocessConfig = PreprocessConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    convert: ConvertConfig = ConvertConfig()

    @property
    def decodes_cut(self) -> bool:
        """Whether evaluation gives the tuned model windows that end behind the clip."""
        wanted = self.evaluate.audio_context
        train = self.train
        trained = train.audio_context == "dynamic" and train.cut_clips >= ENOUGH_CUT
        return wanted == "dynamic" or (wanted == "auto" and trained)

    @classmethod
    def load(cls, path: Path) -> "JobSpec":
        """The spec that `submit` wrote to a job's folder. Raises UsageError as `parse_spec`.

        One of before windows were cut goes on with full ones.
        """
        try:
            values = json.loads(path.read_bytes())
        except ValueError:
            raise UsageError(f"{path}: damaged; not JSON") from None
        if isinstance(values, dict) and isinstance(train := values.get("train"), dict):
            train.setdefault("audio_context", "full")
        return parse_spec(values)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"train": {"epochs": 2, "decoder_only": True}},
    "quality": {"train": {"rank": 64, "alpha": 128}},
}


def parse_spec(values: dict[str, Any]) -> JobSpec:
    """Validate a spec; UsageError names the first wrong field, its value and what is allowed."""
    try:
        spec = JobSpec.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(error)) from None
    return spec.model_copy(update={"language": find_language(spec.language).code})


def build_spec(
    values: dict[str, Any], preset: str = "default", sets: Iterable[str] = ()
) -> JobSpec:
    """A spec from a preset, then `values` (a spec file and the flags), then `--set a.b=c` lines.

    Raises UsageError for an unknown preset, a malformed or unknown setting, a value out of range.
    """
    if not isinstance(preset, str) or preset not in PRESETS:  # a file may hold anything
        raise UsageError(f"preset: {preset!r} is unknown; allowed: {', '.join(PRESETS)}")
    merged = merge(merge({}, PRESETS[preset]), values)
    for line in sets:
        key, equals, text = line.partition("=")
        if not equals or not key:
            raise UsageError(f"--set: {line!r} is not of the form name=value, e.g. train.epochs=2")
        merged = merge(merged, _nested(key.split("."), _parse_value(text, line)))
    return parse_spec(merged)


def _parse_value(text: str, line: str) -> Any:
    try:
        value = read_yaml(text)
    except yaml.YAMLError:
        raise UsageError(f"--set: {line!r} has a value that is not YAML") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`base` with `extra` over it, mapping by mapping."""
    merged = dict(base)
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    result: dict[str, Any] = value
    return result


def _explain(error: ValidationError) -> str:
    """One line for the first of pydantic's complaints."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"] if not isinstance(part, int)]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = setting_names()
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"settings: {', '.join(known)}"
        return f"{name}: no such setting; {hint}"
    if first["type"] == "missing":
        return f"{name}: missing; every job needs it"
    return f"{name}: {first['input']!r} is not allowed: {first['msg'].lower()}"


def setting_names() -> list[str]:
    """Every setting of a spec, as `--set` names it."""
    names = []
    for name, field in JobSpec.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += [f"{name}.{inner}" for inner in kind.model_fields]
        else:
            names.append(name)
    return names
