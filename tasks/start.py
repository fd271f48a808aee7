"""What a training needs from elsewhere: the adapter of another job, folders of noises and rooms,
and its base model.

The adapter is checked and copied. The folders are only checked.
"""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lorajob.demo.packaged import PACKAGED_NAME
from lorajob.errors import FilesError, JobNotFoundError, LorajobError, ModelError, UsageError
from lorajob.job.jobdir import ADAPTER_FILES, ADAPTER_WEIGHTS, START, JobDir, hash_file
from lorajob.languages import find_language
from lorajob.spec import JobSpec, TrainConfig, parse_spec
from lorajob.spec_training import AugmentConfig
from lorajob.storage.urls import public
from lorajob.worker.artifacts.job_files import JobFiles
from lorajob.worker.records.record import JobRecord

FolderStamp = tuple[tuple[str, int, int, int], ...]
COMMIT = re.compile("[0-9a-f]{40}")
# Setting of `train` -> field of PEFT's adapter_config.json.
SHAPE = {
    "rank": "r",
    "alpha": "lora_alpha",
    "rank_stabilized": "use_rslora",
    "dora": "use_dora",
    "target_modules": "target_modules",
    "decoder_only": "exclude_modules",
}


class Source(NamedTuple):
    """The job whose adapter another one starts from."""

    id: str
    spec: JobSpec
    base_sha256: str | None  # identity of its base model
    base_commit: str | None
    shape: dict[str, Any]  # settings of `train` that decide the shape of its adapter
    sha256: str  # of its adapter_model.safetensors


def absolute_base(base_model: str) -> str:
    """A folder as an absolute path, since workers run in other folders; a Hub id unchanged."""
    path = Path(base_model).expanduser()
    return str(path.resolve()) if path.is_dir() else base_model


def folder_stamp(base_model: str) -> FolderStamp:
    """What tells that files of a folder have changed: names, sizes and times; () for a Hub id."""
    try:
        with os.scandir(Path(base_model).expanduser()) as entries:
            found = [(it.name, it.stat()) for it in entries if it.is_file()]
    except (OSError, RuntimeError, ValueError):
        return ()
    return tuple(sorted((name, it.st_size, it.st_ino, it.st_mtime_ns) for name, it in found))


def check_base_files(spec: JobSpec, known: bool) -> None:
    """Refuse a base model that preprocess would refuse, as far as its files are on this machine.

    Of a `known` one only the language is checked, as all files take a part of a second. CTranslate2
    folders have a config.json of another kind, and are checked when they are imported.
    """
    from lorajob.whisper.base_check import check_base, check_language_token, check_name

    token = find_language(spec.language).token
    folder = Path(spec.base_model).expanduser()
    try:
        if (folder / "model.bin").is_file():
            return
        if not folder.is_dir():
            check_name(spec.base_model, token)
        elif any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            (check_language_token if known else check_base)(folder, token)
    except ModelError as error:
        raise UsageError(str(error)) from None


def fit_start(spec: JobSpec, names_base: bool, record: JobRecord, files: JobFiles) -> JobSpec:
    """The spec of a job that starts from the adapter of the job `record`.

    The base model is taken over unless the job `names_base`, and so are the settings of the
    adapter's shape that are not set. Raises UsageError if others are set, or if that job has no
    adapter.
    """
    source = _read_source(record, files)
    start = spec.start
    if start.adapter_sha256 not in (None, source.sha256):
        raise UsageError(
            f"start.job: the adapter of {source.id} is another one than the settings name: sha256 "
            f"{source.sha256}, start.adapter_sha256 {start.adapter_sha256}"
        )
    spec = _with_base(spec, names_base, source)
    given = spec.train.model_fields_set
    other = [name for name in source.shape if name in given and _differs(spec.train, source, name)]
    if other:
        theirs = ", ".join(f"train.{name}={_text(source.shape[name])}" for name in other)
        ours = ", ".join(f"{_text(getattr(spec.train, name))}" for name in other)
        raise UsageError(
            f"start.job: the adapter of {source.id} has {theirs}; this job sets {ours}: leave "
            "these settings out, or set the same"
        )
    train = spec.train.model_copy(update=source.shape)
    start = start.model_copy(update={"job": source.id, "adapter_sha256": source.sha256})
    spec = spec.model_copy(update={"train": train, "start": start})
    # A setting of this job may contradict one that it takes over.
    parse_spec(spec.model_dump(mode="json"))
    return spec


def with_sounds(config: AugmentConfig) -> AugmentConfig:
    """The settings of augmentation with absolute folders. Raises UsageError for a folder that is
    missing or has no sound file.
    """
    changes = {}
    for name in ("noise_folder", "room_folder"):
        if (folder := getattr(config, name)) is not None:
            from lorajob.speech.effects import sound_files

            path = Path(folder).expanduser().resolve()
            try:
                sound_files(path, f"augment.{name}")
            except FilesError as error:
                raise UsageError(str(error)) from None
            changes[name] = str(path)
    return config.model_copy(update=changes) if changes else config


def copy_start(spec: JobSpec, record: JobRecord, source: JobFiles, target: JobFiles) -> None:
    """Copy the adapter of the job `record` to the files of the job of `spec`.

    The new job then needs the other one no more. Raises UsageError if the adapter has changed since
    `fit_start`.
    """
    with source.local(lambda: record, "train/adapter") as job:
        folder = _adapter(job)
        if hash_file(folder / ADAPTER_WEIGHTS) != spec.start.adapter_sha256:
            raise UsageError(f"start.job: the adapter of {record.id} has changed meanwhile")
        for name in ADAPTER_FILES:
            target.location.upload(folder / name, f"{START}/{name}")


def _read_source(record: JobRecord, files: JobFiles) -> Source:
    trained = record.stages["train"]
    if trained.state != "succeeded":
        raise UsageError(
            f"start.job: {record.id} has no adapter yet: its stage train is {trained.state}"
        )
    try:
        with files.local(lambda: record, "train/adapter") as job:
            folder = _adapter(job)
            config = json.loads((folder / "adapter_config.json").read_bytes())
            shape = {name: _value(name, config[field]) for name, field in SHAPE.items()}
            shape["encoder_alpha"] = encoder_alpha(config)
            sha256 = hash_file(folder / ADAPTER_WEIGHTS)
            spec = JobSpec.load(job.spec_path)
            result = job.result("train")
    except (OSError, ValueError, LookupError, TypeError, JobNotFoundError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UsageError(
            f"start.job: the adapter of {record.id} cannot be read: {why}; "
            f"`lorajob verify {record.id}` says what is damaged"
        ) from None
    base, commit = record.base
    if result is not None and result.base_sha256 is not None:
        base, commit = result.base_sha256, result.base_commit
    return Source(record.id, spec, base, commit, shape, sha256)


def _adapter(job: JobDir) -> Path:
    return job.stage_dir("train") / "adapter"


def _value(name: str, value: Any) -> Any:
    """A field of adapter_config.json as the setting that made it."""
    if name == "target_modules":
        return tuple(value)
    return bool(value) if name == "decoder_only" else value


def encoder_alpha(config: dict[str, Any]) -> float:
    """`train.encoder_alpha` by adapter_config.json: its only pattern is that of the encoder."""
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    whole = float(config["lora_alpha"])
    # 3 * 0.7 / 3 is not 0.7.
    return round(next(iter(patterns.values()), whole) / whole, 9)


def _differs(train: TrainConfig, source: Source, name: str) -> bool:
    ours, theirs = getattr(train, name), source.shape[name]
    return set(ours) != set(theirs) if name == "target_modules" else bool(ours != theirs)


def _text(value: Any) -> str:
    return f"[{','.join(sorted(value))}]" if isinstance(value, tuple) else json.dumps(value)


def _with_base(spec: JobSpec, names_base: bool, source: Source) -> JobSpec:
    """The spec with the base model of the source. Raises UsageError if it sets another one."""
    theirs = source.spec.base_model
    revision = source.base_commit or source.spec.base_revision
    if not names_base:
        spec = spec.model_copy(update={"base_model": theirs})
    same_name = spec.base_model == theirs
    if same_name and spec.base_revision is None:
        spec = spec.model_copy(update={"base_revision": revision})
    ours = _identity(spec)
    same = same_name if None in (ours, source.base_sha256) else ours == source.base_sha256
    commits = {spec.base_revision, revision}
    if not same or (len(commits) > 1 and all(COMMIT.fullmatch(it or "") for it in commits)):
        why = f"sha256 {ours}, not {source.base_sha256}" if same_name and ours else "another model"
        raise UsageError(
            f"base_model: {public(spec.base_model)} is not the base model of {source.id}, "
            f"{public(theirs)} ({why}); an adapter only fits the base model that it was trained "
            "on: leave --base-model out"
        )
    return spec


def _identity(spec: JobSpec) -> str | None:
    """The identity of a base model if this machine has it as transformers files; else None."""
    from lorajob.whisper.base_model import local_model
    from lorajob.whisper.identity import identify

    # Models in other formats would be converted here. The training compares them.
    folder = Path(spec.base_model).expanduser()
    if spec.base_model == PACKAGED_NAME or (folder / "model.bin").is_file():
        return None
    with suppress(LorajobError, OSError):
        return identify(local_model(spec.base_model, spec.base_revision, download=False)).sha256
    return None
