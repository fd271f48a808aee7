"""JobSpec: every setting that decides what a job computes. Where the job runs is not part of it."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from lorajob import __version__
from lorajob.errors import UsageError, VersionError
from lorajob.languages import find_language
from lorajob.spec_errors import explain
from lorajob.spec_gate import FROZEN, GateConfig, GuardCorpus, Role
from lorajob.spec_training import AugmentConfig, StartConfig, TextConfig, check_text, check_trial
from lorajob.spec_yaml import merge, nested, parse_value

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(gt=0, le=1)]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
ComputeType = Literal["float16", "int8", "int8_float16", "int8_float32", "float32"]
MAX_LABEL_TOKENS = 444  # 448 decoder positions less the four tokens of the prompt
# Share of cut clips in training from which a model is trusted to decode cut windows.
ENOUGH_CUT = 0.2
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
DEFAULT_BASE_MODEL = "openai/whisper-small"
# The format of jobs, in spec.json and in the record. Raise it in a release that adds a setting or
# an allowed value: workers of earlier releases then leave new jobs to others.
FORMAT = 1


class PreprocessConfig(BaseModel):
    """Which clips are used and how their audio is stored."""

    model_config = FROZEN

    train_splits: Annotated[tuple[str, ...], Field(min_length=1)] = ("train", "dev")
    """Splits of the corpus to train on."""
    test_split: str = "test"
    """Split of the corpus on which the error rates are measured."""
    columns: dict[Role, str] = {}
    """Columns of the corpus by their role, if lorajob does not find them: audio, text, speaker,
    split, start, end, duration. `--map text=raw_transcription` does the same."""
    allow_script: bool = False
    """Accept a corpus whose texts are in another script than the language is usually written in.
    `--allow-script` does the same."""
    allow_leakage: bool = False
    """Accept recordings that are in training and in test. `--allow-leakage` does the same."""
    test_share: Fraction = 0.1
    """Share of the clips to set aside for testing if the corpus has no test split. If speakers are
    known, no speaker is in both parts."""
    min_seconds: PositiveFloat = 0.3
    """Shorter clips are dropped."""
    max_seconds: Annotated[float, Field(gt=0, le=30)] = 30.0
    """Longer clips are dropped. The encoder takes at most 30 s."""
    max_label_tokens: Annotated[int, Field(gt=0, le=MAX_LABEL_TOKENS)] = MAX_LABEL_TOKENS
    """Clips whose text has more tokens are dropped."""
    max_train_clips: PositiveInt | None = None
    """Maximum number of clips to train on. Null: all."""
    max_test_clips: PositiveInt | None = None
    """Maximum number of clips to test on. Null: all."""
    audio_format: Literal["flac", "pcm16"] = "flac"
    """Format of the stored clips. flac takes half the space of pcm16; pcm16 is read faster."""


class TrainConfig(BaseModel):
    """Hyper-parameters of one LoRA training."""

    model_config = FROZEN

    rank: PositiveInt = 32
    """Rank of the LoRA matrices."""
    alpha: PositiveInt = 64
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    encoder_alpha: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Scale of the adapter in the encoder: there alpha is multiplied by this. The encoder's update
    makes a model forget other languages, but a training with 0.5 forgot more (docs/training.md)."""
    rank_stabilized: bool = False
    """Divide the scale by the square root of rank in place of rank (PEFT's use_rslora). With a high
    rank the adapter then has more effect."""
    dora: bool = False
    """Also train the length of each row of the weights (PEFT's use_dora). Not measured."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the adapter. On a CPU, dropout makes a pass 14 to 30 % slower
    (bench/RESULTS.md)."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = ALL_LINEAR
    """Layers that get an adapter. The public recipe takes only q_proj and v_proj. These two alone
    save a tenth of a pass on a CPU (bench/RESULTS.md). Error rates were not compared."""
    decoder_only: bool = False
    """Train adapters in the decoder only. Training is faster, because the encoder needs no backward
    pass. The model may be less accurate, which was not measured."""
    encoder_outputs_gb: Annotated[float, Field(ge=0)] = 8.0
    """Maximum disk space, in GB, for stored encoder outputs. Only used if decoder_only is true. A
    stored clip is encoded once, not in every epoch. 0 stores nothing."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate. Null: chosen from the base model's width and the clips in a step."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """Steps over which the learning rate rises linearly; at most a tenth of all steps."""
    decay: Fraction = 0.4
    """Share of all steps, at the end, over which the learning rate falls to 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    epochs: PositiveInt = 3
    """Passes over the training clips."""
    batch_clips: PositiveInt | None = None
    """Clips in one optimizer step. Null: 8 on a CPU; 16 to 64 for each GPU, by its
    multiprocessors. A small corpus gets fewer, so that the training has enough steps."""
    micro_batch: PositiveInt | None = None
    """Windows of 30 s in one forward pass. If windows are cut, a pass has more of them, but at most
    as much audio. Null: as many as fit the GPU's memory; 1 on a CPU."""
    packing: bool = True
    """true: the clips that do not stand alone (see single_clips and cut_clips) share windows of 30
    s. false: each of these clips is padded to 30 s."""
    single_clips: Fraction = 0.03
    """Share of clips that stand alone in a window padded to 30 s. From these the model learns to
    transcribe short recordings that are padded."""
    shuffle_hours: PositiveFloat = 25.0
    """Hours of audio that are shuffled together. A larger corpus is read in blocks of 256
    consecutive clips, in random order, so that slow disks see long reads. Two such buffers, of 0.06
    to 0.12 GB an hour, should fit the memory that the system has left for files."""
    audio_context: Literal["dynamic", "full"] = "dynamic"
    """dynamic: some windows are cut to the length of their clip. Training is faster, and the model
    learns to decode without padding. full: every window is 30 s long."""
    cut_clips: Fraction = 0.87
    """Share of clips that stand alone in a window cut to their length. Only used if audio_context
    is dynamic."""
    timestamps: Fraction = 0.5
    """Share of packed windows trained with timestamps, so that the model does not forget them."""
    clip_timestamps: Fraction = 0.3
    """Share of the windows of a single clip, padded or cut, trained with timestamps. Programs such
    as faster-whisper decode with timestamps by default."""
    timestamp_jitter: bool = True
    """Draw each timestamp at random from the quiet edge of its clip, between the border of the clip
    and the speech. False: timestamps are at the borders of clips."""
    room_pauses: bool = True
    """Pauses between packed clips have random lengths of 0.1 to 2 s, filled with noise like the
    quiet parts of the clip before. False: each is 0.2 s of digital silence."""
    no_speech: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    """Windows without speech and with empty text (silence, hum, noise, tones) to add, as a share of
    the clips. 0.02 stops invented words in silence; a model of few clips may miss long speech."""
    one_speaker: bool = False
    """Pack only clips of the same speaker into a window."""
    quantization: Literal["auto", "8bit", "4bit", "none"] = "auto"
    """Quantization of the frozen base weights. auto: the first of none, 8bit and 4bit with which
    the training fits the GPU's memory; none on a CPU."""
    precision: Literal["auto", "bf16", "fp16", "float32"] = "auto"
    """Precision of the arithmetic. auto: bf16 if the device computes in it, else fp16 on a GPU and
    float32 on a CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass. This takes less memory and more time."""
    cuda_graphs: bool = True
    """Record each shape of a pass once as a CUDA graph and replay it. Then the GPU does not wait
    for the program. Only used with unquantised weights on GPUs of compute capability 8.0 and
    newer."""
    keep: Literal["best", "average", "last"] = "best"
    """Weights to keep. best and average hold back a few clips of the split dev (of all if it is
    empty), and decode them at fixed steps. best is the step with the lowest error rate, or the
    average of the last of these steps if that is better. average is that average, or best if
    train.patience leaves none. last holds none back, and is used if fewer than 30 could be."""
    validation_clips: Annotated[int, Field(ge=0)] = 200
    """Most clips to hold back for validation, at most 5 % of the clips. 0: as with keep=last."""
    interpolate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = 1.0
    """Share of the training in the delivered weights: base + share * (tuned - base). A smaller
    share forgets other languages less, and learns less of this one. auto: the largest of 1, 0.85,
    0.7 and 0.55 with which sentences in other languages stay within gate.max_forgetting and
    gate.max_language_drop, if that costs at most a tenth more errors on the held-back clips; 1
    without held-back clips."""
    patience: PositiveInt | None = None
    """End the training early after so many validations without a better one. Null: never. The
    learning rate falls at the end of the full training, so an early end may cost accuracy."""
    save_steps: PositiveInt = 50
    """Optimizer steps between two checkpoints, if save_seconds is 0."""
    save_seconds: Annotated[float, Field(ge=0)] | None = None
    """Seconds between two checkpoints: the first step that ends after them is saved. 0: save_steps
    counts instead. Null: 60 on a GPU, 0 on a CPU."""
    keep_checkpoints: PositiveInt = 2
    """Number of checkpoints to keep. Older ones are deleted."""
    threads: PositiveInt | None = None
    """CPU threads of the training. Null: the usable cores divided by LORAJOB_STAGES_HERE."""
    loader_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that prepare batches. Null: up to 8 for each GPU, depending on the machine's cores;
    0 without a GPU."""

    @model_validator(mode="after")
    def _patience_needs_a_validation(self) -> "TrainConfig":
        if self.patience is not None and (self.keep == "last" or not self.validation_clips):
            raise ValueError(
                "train.patience needs a validation: set train.keep to best or average, and "
                "train.validation_clips over 0"
            )
        return self

    @model_validator(mode="after")
    def _interpolation_is_linear(self) -> "TrainConfig":
        if self.dora and self.interpolate != 1:
            raise ValueError(
                f"train.interpolate: {self.interpolate!r} is not allowed with train.dora, whose "
                "weights are no sum of base and update: set one of them back"
            )
        return self


class EvaluateConfig(BaseModel):
    """How the test clips are decoded and scored."""

    model_config = FROZEN

    max_clips: PositiveInt | None = None
    """Maximum number of test clips to score, drawn at random, with equal numbers of each speaker as
    far as possible. Null: all."""
    delivered_clips: PositiveInt = 100
    """Maximum number of test clips that faster-whisper decodes with its own defaults, once with the
    delivered model and once with the base model. They are drawn like max_clips."""
    base_clips: PositiveInt | Literal["auto"] | None = "auto"
    """Maximum number of these clips, the first ones, that are decoded with the base model. auto:
    all; but after 20 clips no further one if over half of the words of the delivered model are
    missing in the transcripts of the base: then few clips tell the two apart, and such a base takes
    the most time. Null: all."""
    delivered_minutes: PositiveFloat | None = 10.0
    """Maximum time, in minutes, to decode delivered_clips with both models. After it no further
    clip is decoded, and the result says how many were. Null: no limit."""
    batch_size: PositiveInt = 16
    """Number of clips, padded to 30 s, that are decoded together. Without padding, up to twice as
    many are decoded together. PyTorch on a GPU decodes at least 64."""
    beam_size: PositiveInt = 1
    """Number of beams in the search. 1 is greedy decoding."""
    audio_context: Literal["auto", "dynamic", "full"] = "auto"
    """dynamic: clips are decoded without padding, in less time. full: clips are padded to 30 s.
    auto: dynamic if the model was trained for it, else full. The base model always gets full
    windows."""
    text: str | None = None
    """Text in the language, a sentence a line (`--text`): a file, a url or
    hf:OWNER/NAME?column=text. `submit` copies it to the job. A model of it and of the training
    texts chooses among the decoder's hypotheses, if it helps on clips of the training."""
    text_sha256: str | None = None
    """SHA-256 of that file. `submit` sets it."""
    language_text: bool = True
    """If text is null, jobs of a service use the text of the language (`lorajob lm`)."""
    glossary: str | None = None
    """File or url of terms, a term a line, with which the test clips are decoded once more."""
    glossary_sha256: str | None = None
    """SHA-256 of that file. `submit` sets it."""


class ConvertConfig(BaseModel):
    """How the model is converted for CTranslate2 and checked."""

    model_config = FROZEN

    compute_types: Annotated[tuple[ComputeType, ...], Field(min_length=1)] = ("float16",)
    """Compute types of the converted models, one model for each. The first is the job's result."""
    check_clips: PositiveInt = 16
    """Test clips on which each converted type is compared with the transformers model."""


class WeightedCorpus(BaseModel):
    """A further corpus, and the share of its training clips that is used."""

    model_config = FROZEN

    corpus: str
    """As the corpus of a job."""
    weight: Weight = 1.0
    """Share of its training clips, sampled by the job's seed."""


class JobSpec(BaseModel):
    """One job: a language, a corpus, a base model, and a config for each stage."""

    model_config = FROZEN

    language: str
    """Code or name of the language, for example hi or Hindi."""
    corpus: str
    """Folder, archive, manifest or URL of a corpus, hf:OWNER/NAME or mdc:DATASET_ID. `submit` takes
    it from `LORAJOB_CORPORA` if it is not given."""
    corpus_weight: Weight = 1.0
    """Share of the training clips of `corpus` that is used. The seed decides which."""
    more_corpora: tuple[WeightedCorpus, ...] = ()
    """Further corpora of the same language to train on."""
    test_corpus: str | None = None
    """Corpus to test on. Null: the test splits of `corpus` and `more_corpora`."""
    base_model: str = DEFAULT_BASE_MODEL
    """Hub id, folder of a Whisper in transformers or CTranslate2 format, or demo/whisper-base."""
    base_revision: str | None = None
    """Commit, tag or branch of a base model on the Hub. Null: its newest commit when the job is
    submitted, or in the first stage if the Hub is unavailable then."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of all random choices."""
    trackers: tuple[Tracker, ...] = ()
    """Experiment trackers that get settings, curves, validation, final table and report: wandb,
    mlflow, tensorboard. `--tracker wandb` does the same. TensorBoard's files are always written;
    with tensorboard they also have the final table."""
    preprocess: PreprocessConfig = PreprocessConfig()
    text: TextConfig = TextConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    convert: ConvertConfig = ConvertConfig()
    gate: GateConfig = GateConfig()
    augment: AugmentConfig = AugmentConfig()
    start: StartConfig = StartConfig()

    @property
    def places(self) -> tuple[str, ...]:
        """The paths and urls of the corpora to train and test on, the first one first."""
        more = [each.corpus for each in self.more_corpora]
        return (self.corpus, *more, *([self.test_corpus] if self.test_corpus else []))

    @property
    def all_places(self) -> tuple[str, ...]:
        """Those, and the paths and urls of the gate's own corpora."""
        return (*self.places, *(each.corpus for each in self.gate.corpora))

    @property
    def checked_places(self) -> tuple[tuple[str, str, Mapping[Any, str]], ...]:
        """Each of all places with the code of its language, and its columns."""
        columns: Mapping[Any, str] = self.preprocess.columns
        own = ((place, self.language, columns) for place in self.places)
        guards = ((it.corpus, self.guard_language(it), it.columns) for it in self.gate.corpora)
        return (*own, *guards)

    def guard_language(self, guard: GuardCorpus) -> str:
        """The code of the language of one of the gate's own corpora."""
        return guard.language or self.language

    def with_places(self, found: Callable[[str], str]) -> "JobSpec":
        """The spec with `found(place)` in place of the path or url of each corpus."""
        more = tuple(
            each.model_copy(update={"corpus": found(each.corpus)}) for each in self.more_corpora
        )
        test = found(self.test_corpus) if self.test_corpus else None
        guards = tuple(
            each.model_copy(update={"corpus": found(each.corpus)}) for each in self.gate.corpora
        )
        changes = {
            "corpus": found(self.corpus),
            "more_corpora": more,
            "test_corpus": test,
            "gate": self.gate.model_copy(update={"corpora": guards}),
        }
        return self.model_copy(update=changes)

    @property
    def decodes_cut(self) -> bool:
        """Whether evaluation gives the tuned model windows cut to the clip's length."""
        wanted = self.evaluate.audio_context
        train = self.train
        trained = train.audio_context == "dynamic" and train.cut_clips >= ENOUGH_CUT
        return wanted == "dynamic" or (wanted == "auto" and trained)

    def as_written(self) -> dict[str, object]:
        """The content of spec.json: the settings and the format."""
        return {"version": FORMAT, **self.model_dump(mode="json")}

    @classmethod
    def load(cls, path: Path) -> "JobSpec":
        """Read the spec that `submit` wrote to a job's folder. Raises UsageError as `parse_spec`,
        and VersionError for a spec of a newer lorajob.

        A spec without `audio_context` is older than cut windows: it gets full windows.
        """
        try:
            values = json.loads(path.read_bytes())
        except ValueError:
            raise UsageError(f"{path}: damaged; not JSON") from None
        if isinstance(values, dict) and isinstance(train := values.get("train"), dict):
            train.setdefault("audio_context", "full")
        if isinstance(values, dict):
            version = values.pop("version", 0)  # 0: older than formats
            if not isinstance(version, int):
                raise UsageError(f"{path}: damaged; version: {version!r} is not a whole number")
            if version > FORMAT:
                raise VersionError(
                    f"{path}: of a newer lorajob (format {version}; {__version__} reads up to "
                    f"{FORMAT}); update lorajob on this machine"
                )
        return parse_spec(values)


PRESETS: dict[str, dict[str, object]] = {
    "default": {},
    "fast": {"train": {"epochs": 2, "decoder_only": True}},
}
# Presets of earlier versions, and what to do instead.
REMOVED_PRESETS = {"quality": "it was no better than default; leave it out"}


def parse_spec(values: Mapping[str, object]) -> JobSpec:
    """Validate a spec. UsageError names the first wrong field, its value and what is allowed."""
    try:
        spec = JobSpec.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain(error, setting_names())) from None
    check_trial(spec.augment, spec.train.keep, spec.train.validation_clips)
    try:
        guards = tuple(
            each.model_copy(update={"language": find_language(each.language).code})
            if each.language
            else each
            for each in spec.gate.corpora
        )
    except UsageError as error:
        raise UsageError(f"gate.corpora: {error}") from None
    gate = spec.gate.model_copy(update={"corpora": guards})
    language = find_language(spec.language).code
    check_text(spec.text, language)
    return spec.model_copy(update={"language": language, "gate": gate})


def build_spec(
    values: Mapping[str, object], preset: object = "default", sets: Iterable[str] = ()
) -> JobSpec:
    """Build a spec from a preset, then `values` (spec file and flags), then `--set a.b=c` lines.

    Later entries override earlier ones. Raises UsageError for an unknown or removed preset, a
    malformed or unknown setting and a value out of range.
    """
    # The preset may come from a file, which can hold any type.
    if isinstance(preset, str) and preset in REMOVED_PRESETS:
        raise UsageError(f"preset: {preset!r} was removed: {REMOVED_PRESETS[preset]}")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UsageError(f"preset: {preset!r} is unknown; allowed: {', '.join(PRESETS)}")
    merged = merge(merge({}, PRESETS[preset]), values)
    for line in sets:
        key, equals, text = line.partition("=")
        if not equals or not key:
            raise UsageError(f"--set: {line!r} is not of the form name=value, e.g. train.epochs=2")
        merged = merge(merged, nested(key.split("."), parse_value(text, line)))
    return parse_spec(merged)


def setting_names() -> list[str]:
    """The names of all settings of a spec, as `--set` takes them."""
    names = []
    for name, field in JobSpec.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += [f"{name}.{inner}" for inner in kind.model_fields]
        else:
            names.append(name)
    return names
