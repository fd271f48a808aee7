"""Settings of a training that are sections of their own: augmentation, the adapter to start from.

A part of JobSpec.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from lorajob.errors import UsageError
from lorajob.spec_gate import FROZEN

Share = Annotated[float, Field(ge=0, le=1)]
Decibels = Annotated[float, Field(ge=-60, le=60)]


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
    model and the shape of its adapter (train.rank, alpha, rank_stabilized, dora, target_modules,
    decoder_only) must be those of this job; `submit` takes those that are not set from it. Null: a
    new adapter."""
    adapter_sha256: str | None = None
    """SHA-256 of that adapter's adapter_model.safetensors. `submit` sets it."""
