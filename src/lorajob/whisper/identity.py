"""Which base model a job began with. Every later stage refuses another one.

The identity of a base is a SHA-256 over the files that decide what it computes: weights, settings
and tokenizer of its transformers folder. JSON files count by their values, not by their layout.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lorajob.errors import BaseChangedError
from lorajob.job.jobdir import STAGES, JobDir
from lorajob.spec import JobSpec
from lorajob.storage.hashes import file_hash, values_hash
from lorajob.storage.urls import public
from lorajob.whisper.base_model import SOURCE, local_model

COUNTED = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "*.safetensors",
    "model.safetensors.index.json",
)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """A base model on this machine: its transformers folder and its identity."""

    folder: Path
    sha256: str
    commit: str | None  # of the Hub's repository; None for a model that is not from the Hub

    def as_result(self) -> dict[str, str | None]:
        """The fields that every stage's result has."""
        return {"base_sha256": self.sha256, "base_commit": self.commit}


def base_of(spec: JobSpec, job: JobDir) -> Base:
    """The base model of a job, on this machine.

    Raises ModelError if it is missing, and BaseChangedError if it is another one than the job's
    earlier stages used. A job whose earlier stages state no identity, because an older version ran
    them, goes on.
    """
    begun = _begun_with(job)
    commit = spec.base_revision or (begun.commit if begun else None)
    base = identify(local_model(spec.base_model, commit))
    if begun is not None and begun.sha256 != base.sha256:
        raise BaseChangedError(
            f"base_model: {public(spec.base_model)} is another model than the one that stage "
            f"{begun.stage} of this job used: sha256 {base.sha256} in {base.folder}, "
            f"{begun.sha256} in the job; put that model back, then `lorajob retry "
            f"{job.root.name}`, or submit a new job"
        )
    return base


def identify(folder: Path) -> Base:
    """The identity of the base model in a transformers folder."""
    hashed = hashlib.sha256()
    for path in _counted(folder):
        hashed.update(f"{path.name} {_values_hash(path)}\n".encode())
    return Base(folder, hashed.hexdigest(), _commit(folder))


@dataclass(frozen=True)
class _Begun:
    stage: str
    sha256: str
    commit: str | None


def _begun_with(job: JobDir) -> _Begun | None:
    """What the first finished stage that states its base used."""
    for stage in STAGES:
        result = job.result(stage)
        if result is not None and result.base_sha256 is not None:
            return _Begun(stage, result.base_sha256, result.base_commit)
    return None


def _counted(folder: Path) -> Iterator[Path]:
    for pattern in COUNTED:
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def _values_hash(path: Path) -> str:
    return values_hash(path) if path.suffix == ".json" else file_hash(path)


def _commit(folder: Path) -> str | None:
    """The commit of a snapshot in the Hub's cache, which names its folders so."""
    with suppress(OSError, ValueError, AttributeError):
        commit = json.loads((folder / SOURCE).read_bytes()).get("commit")
        return commit if isinstance(commit, str) else None
    inside = folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name)
    return folder.name if inside else None
