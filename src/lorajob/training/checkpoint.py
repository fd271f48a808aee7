"""Checkpoints of a training: adapter, optimizer and scheduler, without pickle.

A new attempt renames the folder of the attempt before. An old attempt that has lost its claim, but
still runs, then finds its folder missing, and its checkpoints are never read.

JOB/checkpoints/ATTEMPT/step-N/
    adapter_model.safetensors adapter_config.json   PEFT's format
    optimizer.safetensors                           its tensors
    validation.safetensors                          the best weights and the sum of the last ones,
                                                    after the first validation; what a trial of
                                                    augmentation needs (trial.py)
    state.json                                      other state, and the plan of windows it follows
    history.jsonl history-NUMBER.jsonl              all steps so far (job/history.py)
    manifest.json                                   sizes and hashes, written last
JOB/checkpoints/broken/ATTEMPT-step-N/              a checkpoint that differs from its manifest or
                                                    follows a plan that the job no longer has
"""

import errno
import json
import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from peft import PeftModel
from pydantic import BaseModel, JsonValue
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from lorajob.errors import AttemptSuperseded, of_machine
from lorajob.job.history import Rows, write_history
from lorajob.job.jobdir import MANIFEST, MARK, hash_files, sync_path, sync_tree, write_json
from lorajob.job.results import ValidationPoint
from lorajob.spec import JobSpec
from lorajob.whisper.identity import Base

STEP = re.compile(r"step-(\d+)")
VALIDATION_FILE = "validation.safetensors"

log = logging.getLogger(__name__)


class PlainOutcome(BaseModel, frozen=True):
    """What a training would keep without augmentation, measured on the held-back clips."""

    kept: str  # which weights, as in TrainResult
    point: ValidationPoint
    heard: list[str]  # transcripts, in the order of the clips
    points: list[ValidationPoint]
    losses: int  # steps taken


class TrainingState(BaseModel, frozen=True):
    """state.json of a checkpoint: all but the tensors."""

    step: int  # steps taken
    scheduler: dict[str, JsonValue]
    scaler: dict[str, JsonValue] | None
    micro_batch: int
    threads: int
    precision: str
    plan: str | None = None  # its digest; None in old checkpoints, likewise below
    batch_clips: int | None = None
    optimizer: list[dict[str, JsonValue]] = []  # its groups
    validation: list[ValidationPoint] = []
    plain: PlainOutcome | None = None  # in the second part of a trial of augmentation


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    path: Path
    attempt: int
    step: int


def take_over(checkpoints: Path, attempt: int, plan: str | None = None) -> Checkpoint | None:
    """Make this attempt the only one with checkpoints. Returns the newest, or None without one.

    With a `plan` (a digest), checkpoints of other plans are set aside, because their steps have
    other windows. Raises AttemptSuperseded if a later attempt has begun.
    """
    own = checkpoints / str(attempt)
    earlier = [path for path in _entries(checkpoints) if path.name.isdigit() and path != own]
    if any(int(path.name) > attempt for path in earlier):
        raise AttemptSuperseded(f"{own}: a later attempt has begun")
    newest = newest_checkpoint(checkpoints, plan)
    if newest is not None and newest.attempt != attempt:
        shutil.rmtree(own, ignore_errors=True)
        newest.path.parent.rename(own)
        newest = Checkpoint(own / newest.path.name, attempt, newest.step)
    own.mkdir(parents=True, exist_ok=True)
    for path in earlier:
        if path.exists():
            # For an attempt that still writes there, the folder disappears at once.
            left = path.rename(path.with_name(f".left-{path.name}"))
            shutil.rmtree(left, ignore_errors=True)
    for path in own.glob(".step-*"):  # incomplete checkpoints
        shutil.rmtree(path, ignore_errors=True)
    return newest


def _found(checkpoints: Path) -> list[Checkpoint]:
    """All folders named as checkpoints, the highest step of the highest attempt first."""
    found = []
    for folder in _entries(checkpoints):
        for path in _entries(folder) if folder.name.isdigit() else ():
            if match := STEP.fullmatch(path.name):
                found.append(Checkpoint(path, int(folder.name), int(match[1])))
    return sorted(found, key=lambda it: (it.attempt, it.step), reverse=True)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it is missing.

    Raises OSError if a share fails. `glob` would find nothing, and what it misses is removed.
    """
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def newest_checkpoint(checkpoints: Path, plan: str | None = None) -> Checkpoint | None:
    """The newest checkpoint that matches its manifest and follows `plan`.

    The newest is the highest step of the highest attempt. Newer ones that do not match are set
    aside and named in the log. Raises OSError if a share fails.
    """
    for checkpoint in _found(checkpoints):
        wrong = "" if verify(checkpoint.path) else "broken"
        if not wrong and plan is not None and not _follows(checkpoint.path, plan):
            wrong = "of another plan of windows"
        if not wrong:
            return checkpoint
        aside = checkpoints / "broken" / f"{checkpoint.attempt}-{checkpoint.path.name}"
        log.warning("%s is %s and set aside as %s", checkpoint.path, wrong, aside)
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        checkpoint.path.rename(aside)
    return None


def kept_batch_clips(checkpoints: Path) -> int | None:
    """Clips in a step, from the newest checkpoint that states it; None without one.

    A training that continues on another machine keeps its steps, even if another number would suit
    that device better. Raises OSError if a share fails.
    """
    for checkpoint in _found(checkpoints):
        try:
            if clips := read_state(checkpoint.path).batch_clips:
                return clips
        except OSError as error:
            _check_damage(error)
        except ValueError:
            continue
    return None


def _follows(path: Path, plan: str) -> bool:
    """Whether a checkpoint follows this plan.

    Old checkpoints do not name a plan. For them the result is True, with a warning.
    """
    kept = read_state(path).plan
    if kept is None:
        log.warning("%s does not tell its plan of windows: perhaps not exact from there", path)
    return kept in (None, plan)


def verify(path: Path) -> bool:
    """Whether the files are exactly those of the manifest, with their sizes and hashes.

    Raises OSError if a share fails.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        return bool(manifest["files"] == hash_files(path))
    except OSError as error:
        _check_damage(error)
    except (ValueError, LookupError, TypeError):
        pass
    return False


def _check_damage(error: OSError) -> None:
    """Raise the error again unless it means that the checkpoint is damaged.

    A share that fails says nothing of the files. A bad block of a disk is EIO, and is damage.
    """
    if of_machine(error) and error.errno != errno.EIO:
        raise error


@dataclass(frozen=True)
class Snapshot:
    """A copy of all that a checkpoint holds. The training can go on while it is written."""

    model: PeftModel  # only its settings are read
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    validation: dict[str, Tensor]
    state: dict[str, JsonValue]
    history: Rows


def take_snapshot(
    model: PeftModel,
    optimizer: Optimizer,
    state: TrainingState,
    history: Rows,
    validation: Mapping[str, Tensor] = MappingProxyType({}),
) -> Snapshot:
    """Copy the state of a training to the memory of the CPU."""
    trained = {name: it for name, it in model.named_parameters() if it.requires_grad}
    tensors, groups = flatten_optimizer(optimizer)
    return Snapshot(
        model=model,
        adapter=_copied(trained),
        # Tensors of a GPU are copies already.
        optimizer=_copied(tensors) if model.device.type == "cpu" else tensors,
        validation=_copied(validation),
        state=state.model_copy(update={"optimizer": groups}).model_dump(mode="json"),
        history=history,
    )


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: it.detach().to("cpu", copy=True) for name, it in tensors.items()}


def save_checkpoint(target: Path, snapshot: Snapshot, before: Path | None = None) -> None:
    """Write a checkpoint beside `target`, then rename it to `target`. A failure leaves no files.

    `before` is an earlier checkpoint of the same training. Raises AttemptSuperseded if the
    attempt's folder has been taken over.
    """
    scratch = target.with_name(f".{target.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        (scratch / MARK).touch()
        _write_checkpoint(scratch, snapshot, before)
        _take_mark(scratch)
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        sync_path(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if not target.parent.is_dir():
            raise AttemptSuperseded(f"{target}: a later attempt has taken over") from error
        raise


def _take_mark(scratch: Path) -> None:
    """Remove the mark from a finished folder. Raises FileNotFoundError without a mark.

    If the folder was taken away during writing, PEFT may have created it again. Such a folder has
    no mark and is removed.
    """
    try:
        (scratch / MARK).unlink()
    except FileNotFoundError:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):
            scratch.parent.rmdir()
        raise


def _write_checkpoint(scratch: Path, snapshot: Snapshot, before: Path | None) -> None:
    save_adapter(snapshot.model, scratch, snapshot.adapter)
    save_file(snapshot.optimizer, scratch / "optimizer.safetensors")
    if snapshot.validation:
        save_file(snapshot.validation, scratch / VALIDATION_FILE)
    write_json(scratch / "state.json", snapshot.state)
    write_history(scratch, snapshot.history, before)
    files = hash_files(scratch)
    files.pop(MARK, None)
    write_json(scratch / MANIFEST, {"files": files})
    sync_tree(scratch)


def read_state(path: Path) -> TrainingState:
    """state.json of a checkpoint. Raises OSError and ValueError."""
    return TrainingState.model_validate_json((path / "state.json").read_bytes())


def load_checkpoint(path: Path, optimizer: Optimizer) -> TrainingState:
    """Restore the optimizer. Returns the state. PEFT loads the adapter."""
    state = read_state(path)
    tensors = _as_one_parameter(load_file(path / "optimizer.safetensors"))
    unflatten_optimizer(optimizer, tensors, state.optimizer)
    return state


def load_validation(path: Path) -> tuple[list[ValidationPoint], dict[str, Tensor]]:
    """The points and tensors of the validation in a checkpoint."""
    file = path / VALIDATION_FILE
    return read_state(path).validation, load_file(file) if file.is_file() else {}


def _as_one_parameter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's state for all adapter weights as one parameter.

    Older checkpoints have a state for each weight, in the order of the model's parameters.
    """
    count = len({key.partition(".")[0] for key in tensors})
    if count == 1:
        return tensors
    joined = {"0.step": tensors["0.step"]}
    for name in ("exp_avg", "exp_avg_sq"):
        joined[f"0.{name}"] = torch.cat([tensors[f"{n}.{name}"].flatten() for n in range(count)])
    return joined


def prune(attempt_folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints of an attempt."""
    steps = [path for path in attempt_folder.glob("step-*") if STEP.fullmatch(path.name)]
    for path in sorted(steps, key=lambda it: int(it.name[5:]))[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def save_adapter(model: PeftModel, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write PEFT's two files, with the model's present weights or with others.

    PEFT's model card is removed, because it names local paths.
    """
    model.save_pretrained(str(folder), safe_serialization=True, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)


def name_base(folder: Path, spec: JobSpec, base: Base) -> None:
    """Write to adapter_config.json which base model the adapter belongs to.

    PEFT reads the name and the commit. The hash is among the names of classes that PEFT's
    `save_pretrained` writes, because PEFT warns about unknown fields elsewhere.
    """
    path = folder / "adapter_config.json"
    config = json.loads(path.read_bytes())
    if base.commit is not None:
        config |= {"base_model_name_or_path": spec.base_model, "revision": base.commit}
    config["auto_mapping"] = (config.get("auto_mapping") or {}) | {"base_sha256": base.sha256}
    write_json(path, config)


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], list[dict[str, JsonValue]]]:
    """The optimizer's state as tensors named `PARAMETER.NAME`, and its groups as plain numbers."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    groups: list[dict[str, JsonValue]] = [
        {key: value for key, value in group.items() if isinstance(value, int | float | list)}
        for group in state["param_groups"]
    ]
    return tensors, groups


def unflatten_optimizer(
    optimizer: Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, JsonValue]]
) -> None:
    current = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    merged = [
        {**old, **new, "params": old["params"]}
        for old, new in zip(current["param_groups"], groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": merged})
