"""Training's checkpoints: adapter, optimizer and scheduler, without pickle.

A new attempt takes the folder of the one before over, by renaming it. So a writer that has lost its
claim without knowing finds its folder gone, and nothing that it writes is ever read.

JOB/checkpoints/ATTEMPT/step-N/
    adapter_model.safetensors adapter_config.json   PEFT's format
    optimizer.safetensors                           its tensors
    state.json                                      the rest, and which plan of windows it follows
    history.jsonl                                   every step so far
    manifest.json                                   sizes and hashes, written last
JOB/checkpoints/broken/ATTEMPT-step-N/              what was not as its manifest says, or is of a
                                                    plan that the job no longer has
"""

import json
import logging
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from pydantic import BaseModel, JsonValue
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from lorajob.errors import AttemptSuperseded
from lorajob.job.jobdir import MANIFEST, MARK, hash_files, sync_path, sync_tree, write_json

STEP = re.compile(r"step-(\d+)")

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    path: Path
    attempt: int
    step: int


def take_over(checkpoints: Path, attempt: int, plan: str | None = None) -> Checkpoint | None:
    """Make this attempt the only one with checkpoints; returns the newest, or None without one.

    With a `plan` (its digest) those of another are set aside: their steps count others.

    Raises AttemptSuperseded where a later attempt has begun.
    """
    own = checkpoints / str(attempt)
    earlier = [path for path in checkpoints.glob("*") if path.name.isdigit() and path != own]
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
            left = path.rename(path.with_name(f".left-{path.name}"))  # gone at once for a writer
            shutil.rmtree(left, ignore_errors=True)
    for path in own.glob(".step-*"):  # half written
        shutil.rmtree(path, ignore_errors=True)
    return newest


def _found(checkpoints: Path) -> list[Checkpoint]:
    """All that bear a checkpoint's name, the highest attempt's highest step first."""
    found = []
    for path in checkpoints.glob("*/step-*"):
        match = STEP.fullmatch(path.name)
        if match and path.parent.name.isdigit():
            found.append(Checkpoint(path, int(path.parent.name), int(match[1])))
    return sorted(found, key=lambda it: (it.attempt, it.step), reverse=True)


def newest_checkpoint(checkpoints: Path, plan: str | None = None) -> Checkpoint | None:
    """The highest attempt's highest step whose files are as its manifest says, and of this `plan`.

    Any other is set aside and named in the log.
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
    """Clips a step of the newest checkpoint that says so: a training that goes on elsewhere keeps
    its steps, whatever suits the device there.
    """
    for checkpoint in _found(checkpoints):
        with suppress(OSError, ValueError):
            if clips := read_state(checkpoint.path).batch_clips:
                return clips
    return None


def _follows(path: Path, plan: str) -> bool:
    """Whether a checkpoint's step is one of this plan; True, with a warning, where it tells none,
    as none did once.
    """
    kept = read_state(path).plan
    if kept is None:
        log.warning("%s does not tell its plan of windows: perhaps not exact from there", path)
    return kept in (None, plan)


def verify(path: Path) -> bool:
    """Whether every file of the manifest is there with its size and hash."""
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        return bool(manifest["files"] == hash_files(path))
    except (OSError, ValueError, KeyError):
        return False


def save_checkpoint(
    target: Path,
    model: PeftModel,
    optimizer: Optimizer,
    state: TrainingState,
    history: Path,
) -> None:
    """Write a checkpoint beside `target` and rename it to its place; if that fails, nothing stays.

    Raises AttemptSuperseded where the attempt's folder has been taken over.
    """
    scratch = target.with_name(f".{target.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        (scratch / MARK).touch()
        _write_checkpoint(scratch, model, optimizer, state, history)
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
    """Folders that were taken away meanwhile were perhaps made anew, by PEFT: those have no mark,
    and go.
    """
    try:
        (scratch / MARK).unlink()
    except FileNotFoundError:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):
            scratch.parent.rmdir()
        raise


def _write_checkpoint(
    scratch: Path,
    model: PeftModel,
    optimizer: Optimizer,
    state: TrainingState,
    history: Path,
) -> None:
    save_adapter(model, scratch)
    tensors, rest = flatten_optimizer(optimizer)
    save_file(tensors, scratch / "optimizer.safetensors")
    write_json(
        scratch / "state.json",
        state.model_copy(update={"optimizer": rest}).model_dump(mode="json"),
    )
    shutil.copyfile(history, scratch / "history.jsonl")
    files = hash_files(scratch)
    files.pop(MARK, None)
    write_json(scratch / MANIFEST, {"files": files})
    sync_tree(scratch)


def read_state(path: Path) -> TrainingState:
    """state.json of a checkpoint. Raises OSError and ValueError."""
    return TrainingState.model_validate_json((path / "state.json").read_bytes())


def load_checkpoint(path: Path, optimizer: Optimizer) -> TrainingState:
    """Restore the optimizer; returns the state. The adapter is loaded by PEFT."""
    state = read_state(path)
    tensors = _as_one_parameter(load_file(path / "optimizer.safetensors"))
    unflatten_optimizer(optimizer, tensors, state.optimizer)
    return state


def _as_one_parameter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's state of all adapter weights in a row.

    Older checkpoints have one of each weight, in the order of the model's parameters.
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


def save_adapter(model: PeftModel, folder: Path) -> None:
    """PEFT's two files. Its model card names local paths, so it is not kept."""
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], list[dict[str, JsonValue]]]:
    """Its state as named tensors `PARAMETER.NAME`, and its groups as plain numbers."""
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
