"""Checks the finished stages of a job: their files, and that each was computed from the others.

A stage's result names the settings (`spec_sha256`), the base model (`base_sha256`) and the files of
the earlier stages (`inputs`) that it used. Older versions did not write them: what is not stated is
not a fault.
"""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from lorajob.errors import StageError
from lorajob.job.jobdir import (
    ADAPTER_WEIGHTS,
    MANIFEST,
    STAGES,
    Files,
    JobDir,
    hash_file,
    hash_files,
)
from lorajob.job.results import StageResult


def finished_stages(job: JobDir) -> dict[str, StageResult]:
    """The results of the finished stages. Stages with a damaged manifest are left out."""
    found = {}
    for stage in STAGES:
        try:
            result = job.result(stage)
        except StageError:
            continue
        if result is not None:
            found[stage] = result
    return found


def manifest_files(job: JobDir, stage: str) -> Files:
    """Name -> size and hash of the files that a stage committed. Raises StageError."""
    path = job.stage_dir(stage) / MANIFEST
    try:
        files: Files = dict(json.loads(path.read_bytes())["files"])
    except (OSError, ValueError, LookupError, TypeError):
        raise StageError(f"{path} is missing or damaged") from None
    return files


def file_faults(job: JobDir, stage: str) -> Iterator[str]:
    """One line for each file of a finished stage that is missing, altered or was added."""
    try:
        said = manifest_files(job, stage)
    except StageError:
        yield f"{stage}/{MANIFEST}: damaged"
        return
    here = hash_files(job.stage_dir(stage))
    for name in sorted(said.keys() | here.keys()):
        path = PurePosixPath(stage, name)
        if name not in here:
            yield f"{path}: missing"
        elif name not in said:
            yield f"{path}: added after the stage had finished"
        elif here[name] != said[name]:
            yield (
                f"{path}: altered: sha256 {here[name]['sha256']}, "
                f"{_hash_said(said[name])} when the stage finished"
            )


def _hash_said(entry: object) -> object:
    return entry.get("sha256") if isinstance(entry, dict) else entry


def chain_faults(job: JobDir) -> Iterator[str]:
    """One line for each finished stage that used other settings than those that lie here, another
    base model than the first, or other files of an earlier stage than those that lie here.
    """
    results = finished_stages(job)
    yield from _spec_faults(job, results)
    named = {name: it.base_sha256 for name, it in results.items() if it.base_sha256}
    for stage, sha256 in named.items():
        first = next(iter(named))
        if sha256 != named[first]:
            yield f"{stage}: used base model {sha256}, {first} used {named[first]}"
    for stage, result in results.items():
        for earlier, wanted in (result.inputs or {}).items():
            if earlier not in results:
                continue
            here = job.tree_hash(earlier)
            if here != wanted:
                yield f"{stage}: used other files of {earlier}: {wanted}, here {here}"
    yield from _adapter_faults(job, results.get("train"))
    yield from _start_faults(job, results.get("train"))


def _spec_faults(job: JobDir, results: dict[str, StageResult]) -> Iterator[str]:
    named = {name: it.spec_sha256 for name, it in results.items() if it.spec_sha256}
    if not named:
        return
    try:
        here = job.spec_hash()
    except StageError:
        yield f"{job.spec_path.name}: missing or damaged"
        return
    for stage, sha256 in named.items():
        if sha256 != here:
            yield f"{stage}: used other settings than spec.json: {sha256}, here {here}"


def checkpoint_faults(job: JobDir) -> Iterator[str]:
    """One line for each file of a complete checkpoint that is missing, altered or was added.

    A checkpoint that is removed meanwhile has no fault.
    """
    for path in sorted(job.checkpoints.glob(f"[0-9]*/*/{MANIFEST}")):
        place = path.parent.relative_to(job.root)
        try:
            said: Files = dict(json.loads(path.read_bytes())["files"])
            here = hash_files(path.parent)
        except FileNotFoundError:
            continue
        except (ValueError, LookupError, TypeError):
            yield f"{place / MANIFEST}: damaged"
            continue
        for name in sorted(said.keys() | here.keys()):
            if here.get(name) != said.get(name):
                yield f"{place / name}: is not as the checkpoint's manifest says"


def _adapter_faults(job: JobDir, train: StageResult | None) -> Iterator[str]:
    if train is None or train.base_sha256 is None:
        return
    path = job.stage_dir("train") / "adapter" / "adapter_config.json"
    try:
        config = json.loads(path.read_bytes())
        named = (config.get("auto_mapping") or {}).get("base_sha256")
    except (OSError, ValueError, AttributeError):
        return  # `file_faults` names it
    if named is not None and named != train.base_sha256:
        yield f"train/adapter: is for base model {named}, train used {train.base_sha256}"


def _start_faults(job: JobDir, train: StageResult | None) -> Iterator[str]:
    """Whether the adapter that the training started from is still that one, if it is here."""
    named = None if train is None else train.start_sha256
    path = job.start / ADAPTER_WEIGHTS
    if named is not None and path.is_file() and (here := hash_file(path)) != named:
        yield f"start/{ADAPTER_WEIGHTS}: sha256 {here}, train started from {named}"
