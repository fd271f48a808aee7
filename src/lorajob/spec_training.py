"""Settings in sections of their own: the form of texts, augmentation, the adapter to start from.

A part of JobSpec.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from lorajob.errors import UsageError
from lorajob.spec_gate import FROZEN

Share = Annotated[float, Field(ge=0, le=1)]
Decibels = Annotated[float, Field(ge=-60, le=60)]


# Languages whose numbers CLDR spells, and which do not change with case or class.
SPELLED = (
    *("af", "az", "ca", "da", "de", "en", "es", "fa", "fr", "hi", "hu", "id", "it", "ja", "kk"),
    *("ky", "ms", "ne", "nl", "no", "pt", "sv", "th", "tr", "vi"),
)


class TextConfig(BaseModel):
    """The form in which texts are trained on, and which the model then writes."""

    model_config = FROZEN

    case: Literal["keep", "lower"] = "keep"
    """lower: texts in lower case, by the rules of the language."""
    punctuation: Literal["keep", "remove"] = "keep"
    """remove: texts without punctuation. Apostrophes and hyphens inside words stay, so do marks
    inside numbers (3.5, 10:30) and signs that are read aloud (%, &, @)."""
    digits: Literal["keep", "spell"] = "keep"
    """spell: whole numbers become words, in languages whose numbers have one form. Numbers with
    several forms (French 1), decimals, times, dates, ordinals such as German 5. and years such as
    1984 in English stay, and their clips are counted under `noted`."""

    @property
    def changes(self) -> tuple[str, ...]:
        """What differs from the corpus, for reports and model cards; empty if nothing does."""
        found = {
            "in lower case": self.case == "lower",
            "without punctuation": self.punctuation == "remove",
            "with whole numbers as words": self.digits == "spell",
        }
        return tuple(name for name, is_changed in found.items() if is_changed)

    @property
    def sentence(self) -> str:
        """The changes as one sentence; "" without any."""
        if not self.changes:
            return ""
        return f"texts of training and references are {', '.join(self.changes)} (settings text.*)"


def check_text(config: TextConfig, language: str) -> None:
    """Raise UsageError if numbers cannot be spelled in a language."""
    if config.digits == "spell" and language not in SPELLED:
        raise UsageError(
            f"text.digits: spell is not possible in {language}, whose numbers have several forms or"
            f" are unknown; set text.digits=keep. It is possible in {', '.join(SPELLED)}"
        )


def _from_yaml(value: Any) -> Any:
    """true means auto, false means off."""
    return {True: "auto", False: "off"}[value] if isinstance(value, bool) else value


class AugmentConfig(BaseModel):
    """How the sound of training clips is altered."""

    model_config = FROZEN

    use: Annotated[Literal["off", "auto", "always"], BeforeValidator(_from_yaml)] = "off"
    """auto: the last part of the training (trial_share) is done twice, without and with
    augmentation, and the weights with the lower error rate on the held-back clips are kept. It
    needs a validation (train.keep); without enough clips it stays off. always: all clips of the
    training, without a trial. true means auto."""
    trial_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the steps that auto takes twice. The training takes longer by this share."""
    speed: Share = 0.4
    """Share of the clips that are played slower or faster, with their pitch."""
    slowest: Annotated[float, Field(ge=0.5, le=1)] = 0.9
    """Lowest speed."""
    fastest: Annotated[float, Field(ge=1, le=2)] = 1.1
    """Highest speed."""
    gain: Share = 0.3
    """Share of the clips that are made louder or softer."""
    least_gain_db: Decibels = -15.0
    """Lowest gain, in dB."""
    most_gain_db: Decibels = 5.0
    """Highest gain, in dB. Clips get no louder than full scale."""
    noise: Share = 0.3
    """Share of the clips that get noise."""
    least_snr_db: Decibels = 5.0
    """Lowest level of a clip above its noise, in dB."""
    most_snr_db: Decibels = 25.0
    """Highest level of a clip above its noise, in dB."""
    noise_folder: str | None = None
    """Folder of noises (wav, flac, ogg, mp3), on every machine that trains. Null: hum, tones, white
    and pink noise are generated."""
    room: Share = 0.15
    """Share of the clips that get the reverberation of a room."""
    room_folder: str | None = None
    """Folder of impulse responses of rooms, as noise_folder. Null: they are generated."""
    telephone: Share = 0.1
    """Share of the clips that sound as over a telephone: 300 to 3400 Hz, 8 bits."""
    masks: Share = 0.3
    """Share of the windows of which some frames and frequencies are hidden (SpecAugment)."""

    @model_validator(mode="after")
    def _in_order(self) -> "AugmentConfig":
        for least, most in (("least_gain_db", "most_gain_db"), ("least_snr_db", "most_snr_db")):
            if getattr(self, least) > getattr(self, most):
                raise ValueError(f"augment.{least} is over augment.{most}")
        return self


def check_trial(config: AugmentConfig, keep: str, validation_clips: int) -> None:
    """Raise UsageError for a trial of augmentation in a training without a validation."""
    if config.use == "auto" and (keep == "last" or not validation_clips):
        raise UsageError(
            "augment.use=auto needs a validation: set train.keep to best or average, and "
            "train.validation_clips over 0; or set augment.use=always"
        )


class StartConfig(BaseModel):
    """The adapter that a training starts from."""

    model_config = FROZEN

    job: str | None = None
    """Job from whose adapter the training starts, by id or name. `--from` does the same. Its base
    model and the shape of its adapter (train.rank, alpha, encoder_alpha, rank_stabilized, dora,
    target_modules, decoder_only) must be those of this job; `submit` takes those that are not set
    from it. Null: a new adapter."""
    adapter_sha256: str | None = None
    """SHA-256 of that adapter's adapter_model.safetensors. `submit` sets it."""
