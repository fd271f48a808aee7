"""Settings of a training that are sections of their own: the adapter to start from. A part of
JobSpec.
"""

from pydantic import BaseModel

from lorajob.spec_gate import FROZEN


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
