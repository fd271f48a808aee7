"""The adapter of another job that a training starts from. `submit` copied it to JOB/start."""

import json
from pathlib import Path

from lorajob.errors import ModelError
from lorajob.job.jobdir import ADAPTER_WEIGHTS, JobDir, hash_file
from lorajob.spec import JobSpec


def start_folder(spec: JobSpec, job: JobDir, base_sha256: str) -> Path | None:
    """The folder of the adapter that the job starts from; None for a new adapter.

    Raises ModelError if it is missing, is not the one that was submitted, or is for another base
    model than `base_sha256`.
    """
    if spec.start.job is None:
        return None
    weights = job.start / ADAPTER_WEIGHTS
    try:
        sha256 = hash_file(weights)
        config = json.loads((job.start / "adapter_config.json").read_bytes())
        named = (config.get("auto_mapping") or {}).get("base_sha256")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"start.job: the adapter of {spec.start.job} cannot be read: {error}; submit the job "
            "again"
        ) from None
    if sha256 != spec.start.adapter_sha256:
        raise ModelError(
            f"start.job: {weights} is not the adapter that was submitted: sha256 {sha256}, "
            f"{spec.start.adapter_sha256} in spec.json; submit the job again"
        )
    if named not in (None, base_sha256):
        raise ModelError(
            f"start.job: the adapter of {spec.start.job} is for another base model: sha256 "
            f"{named}, this job has {base_sha256}; put that model back, or submit a new job"
        )
    return job.start
