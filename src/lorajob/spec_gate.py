"""The settings of the gate: what is checked of a model, and the thresholds. A part of JobSpec."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Role = Literal["audio", "text", "speaker", "split", "start", "end", "duration"]
Threshold = Annotated[float, Field(ge=0)] | None
# The text under a field describes it in the schema, `submit --help-all` and docs/settings.md.
FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class GuardCorpus(BaseModel):
    """A corpus of the user on which the delivered model must not get worse than its base."""

    model_config = FROZEN

    corpus: str
    """As the corpus of a job."""
    language: str | None = None
    """Code or name of its language. Null: that of the job."""
    clips: PositiveInt = 50
    """Maximum number of its clips, drawn like evaluate.max_clips: of its test split, or of all of
    it if it has none."""
    max_rise: Threshold = None
    """As gate.max_guard_rise, for this corpus. Null: gate.max_guard_rise."""
    columns: dict[Role, str] = {}
    """As preprocess.columns, for this corpus."""


class GateConfig(BaseModel):
    """What the delivered model has to pass. The job succeeds in any case; the result says whether
    the model passed."""

    model_config = FROZEN

    check: bool = True
    """false: nothing is checked, and the result has no verdict."""
    minutes: PositiveFloat | None = 10.0
    """Maximum time for all checks, in minutes. Checks for which no time is left count as not
    checked. Null: no limit."""
    max_wer_rise: Threshold = 0.0
    """Points by which the error rate of the delivered model may be over that of the base model.
    Characters are counted in scripts without spaces. Null: not checked."""
    min_own_gain: Threshold = 3.0
    """Points of the character error rate by which transcripts have to fit their own clip better
    than other clips. Null: not checked."""
    max_loops: Annotated[float, Field(ge=0, le=1)] | None = 0.02
    """Share of the delivered transcripts that may repeat themselves, by Whisper's compression
    ratio. One such clip is always allowed. Null: not checked."""
    max_long_form_rise: Threshold = 10.0
    """Points by which the error rate of test clips, joined with pauses to a file of 60 s or more,
    may be over that of the same clips one by one. The check fails if the whole 95 % interval of the
    rise is over it. Null: not checked."""
    max_faulty_segments: Annotated[int, Field(ge=0)] | None = 0
    """Segments of the joined file that may go back in time or lie outside it. Null: not
    checked."""
    max_timestamp_error: Threshold = 1.0
    """Median distance in seconds from the ends of speech in the joined file to the ends of the
    nearest segment. It may always be as large as that of the base model. Null: not checked."""
    max_word_error: Threshold = 0.5
    """Median distance in seconds from the ends of speech of test clips, joined to a window of 28 s,
    to the first and last word, with word timestamps. It may always be as large as that of the base
    model. Null: not checked."""
    max_forgetting: Threshold = 10.0
    """Points by which the error rate in other languages may be over that of the base model, on
    spoken sentences of lorajob in languages that the base knows. The check fails if the whole 95 %
    interval of the rise is over it. Null: not checked."""
    max_language_drop: Threshold = 10.0
    """Percent of the clips, of the job's language and of others, whose language the model may no
    longer identify while the base model does. The check fails if the whole 95 % interval of the
    difference is over it. Null: not checked."""
    corpora: tuple[GuardCorpus, ...] = ()
    """Own corpora on which the model must not get worse than its base, such as recordings of other
    customers, or another language. `--guard CORPUS` adds one."""
    max_guard_rise: Threshold = 5.0
    """Points by which the error rate on each of these corpora may be over that of the base model.
    Null: only corpora with a max_rise of their own are checked."""
    max_noise_words: Threshold = 5.0
    """Words (characters in scripts without spaces) that the model may invent in 60 s of silence,
    hum, noise or tones beyond those of the base model. Null: not checked."""
    min_speed: PositiveFloat | None = None
    """How many times faster than real time faster-whisper has to decode the test clips on the
    machine of the job. Null: the speed is only reported."""
    max_memory_gb: PositiveFloat | None = None
    """Gigabytes of memory that the stage evaluate may take, without that of a GPU. Null: they are
    only reported."""
    max_conversion_difference: Threshold = 0.5
    """Points by which the error rate of a converted type may differ from that before the
    conversion, on convert.check_clips test clips. The check fails if the whole 95 % interval of the
    difference is over it, or the difference over 10. Null: not checked."""
