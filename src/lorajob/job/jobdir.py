"""The files of a job, and how the files of a stage are committed.

    JOB/spec.json  job.json  log/STAGE.log
    JOB/preprocess/  train/  evaluate/  convert/   committed stages, each with a manifest.json
    JOB/checkpoints/ATTEMPT/step-N/                training's checkpoints, which outlast attempts
    JOB/attempts/STAGE-ATTEMPT/                    files of a running attempt, until its commit
    JOB/start/                                     the adapter that training starts from, of
                                                   another job; written by `submit`
    JOB/report.html                                page about the job, drawn after the last stage

A stage is finished when `JOB/STAGE/manifest.json` exists. The manifest is the last file that is
written. Then a single rename moves the attempt's folder to JOB/STAGE.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from lorajob.errors import AttemptSuperseded, StageError

if TYPE_CHECKING:
    from lorajob.job.results import StageResult

STAGES = ("preprocess", "train", "evaluate", "convert")
JOB_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LOGIN = re.compile("://.*@", re.DOTALL)  # of a URL without query
MANIFEST = "manifest.json"
REPORT = "report.html"
CURVES = "tensorboard"  # in the folder of a stage
# What the report shows, for a job in a store: neither training clips nor weights.
REPORT_FILES = (
    *("preprocess/report.json", "preprocess/test", "train/history.jsonl", "evaluate"),
    "convert/manifest.json",
)
START = "start"
TEXT = "book/text"  # copy of the file of `evaluate.text`
GLOSSARY = "book/glossary.txt"  # copy of the file of `evaluate.glossary`
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = ("adapter_config.json", ADAPTER_WEIGHTS)  # PEFT's names
MARK = ".attempt"  # file in an attempt's folder until the commit


class FileEntry(TypedDict):
    """What a manifest says of a file."""

    bytes: int
    sha256: str


Files = dict[str, FileEntry]  # by the name below the manifest's folder


class Manifest(TypedDict):
    """The JSON of a manifest."""

    files: Files
    stage: NotRequired[str]  # of a stage; a checkpoint has only `files`
    result: NotRequired[dict[str, object]]
    tree: NotRequired[str]  # in a store: the folder of the files


@dataclass(frozen=True)
class JobDir:
    """The folder of one job, and the paths in it."""

    root: Path

    @property
    def spec_path(self) -> Path:
        return self.root / "spec.json"

    @property
    def record_path(self) -> Path:
        return self.root / "job.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def start(self) -> Path:
        return self.root / START

    @property
    def text(self) -> Path:
        return self.root / TEXT

    @property
    def glossary(self) -> Path:
        return self.root / GLOSSARY

    @property
    def report_path(self) -> Path:
        return self.root / REPORT

    def log_path(self, stage: str) -> Path:
        return self.root / "log" / f"{stage}.log"

    def stage_dir(self, stage: str) -> Path:
        return self.root / stage

    def new_attempt(self, stage: str, attempt: int) -> Path:
        """Make an empty folder for this attempt's files.

        The folders of this and earlier attempts are removed. An earlier attempt that still runs has
        lost its claim. Folders of later attempts stay.
        """
        attempts = self.root / "attempts"
        path = attempts / f"{stage}-{attempt}"
        for left in attempts.glob(f"{stage}-*"):
            number = left.name.rpartition("-")[2]
            if number.isdigit() and int(number) <= attempt:
                gone = left.with_name(f".gone-{left.name}")
                shutil.rmtree(gone, ignore_errors=True)
                # The rename is atomic, so an attempt that still writes there fails at once.
                left.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        path.mkdir(parents=True)
        (path / MARK).touch()
        return path

    def last_attempt(self, stage: str) -> int:
        """The highest number of an attempt at `stage` that left files; 0 without any."""
        folders = list((self.root / "attempts").glob(f"{stage}-*"))
        if stage == "train":
            folders += self.checkpoints.glob("*")
        numbers = [path.name.rpartition("-")[2] for path in folders]
        return max((int(number) for number in numbers if number.isdigit()), default=0)

    def curves(self, stage: str) -> Path | None:
        """The folder of TensorBoard's files of a stage; None without it.

        A finished stage is preferred to its newest attempt.
        """
        newest = self.root / "attempts" / f"{stage}-{self.last_attempt(stage)}"
        for place in (self.stage_dir(stage), newest):
            if (place / CURVES).is_dir():
                return (place / CURVES).resolve()
        return None

    def result(self, stage: str) -> "StageResult | None":
        """The result of a finished stage; None if it is not finished.

        Raises StageError if its manifest is damaged.
        """
        # Here, so that `--help`, which needs the names above, does not load pydantic.
        from lorajob.job.results import StageResult

        path = self.stage_dir(stage) / MANIFEST
        try:
            return StageResult.model_validate(json.loads(path.read_bytes())["result"])
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError):
            raise StageError(f"{path} is damaged; remove its folder to run it again") from None

    def tree_hash(self, stage: str) -> str:
        """A hash of the names, sizes and hashes of a finished stage's files.

        Raises StageError if its manifest is missing or damaged.
        """
        path = self.stage_dir(stage) / MANIFEST
        try:
            files = json.loads(path.read_bytes())["files"]
        except (OSError, ValueError, LookupError, TypeError):
            raise StageError(f"{path} is missing or damaged") from None
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    def spec_hash(self) -> str:
        """A hash of the settings in spec.json: of their values, not of their layout.

        Logins and queries of URLs do not count: `lorajob web` sends spec.json without them.
        Raises StageError if the file is missing or damaged.
        """
        try:
            values = json.loads(self.spec_path.read_bytes())
        except (FileNotFoundError, ValueError):
            raise StageError(f"{self.spec_path} is missing or damaged") from None
        told = json.dumps(_without_secrets(values), sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def require(self, *stages: str) -> None:
        """Raise StageError unless all of `stages` are finished."""
        for stage in stages:
            if self.result(stage) is None:
                raise StageError(f"{self.root}: stage {stage} has not finished; run it first")

    def commit(self, stage: str, attempt_dir: Path, result: "StageResult") -> "StageResult":
        """Commit an attempt's folder as the stage's: manifest, fsync, one rename.

        Returns the committed result. The first commit wins: a later one is discarded, and the first
        result is returned. Raises AttemptSuperseded if a later attempt removed the folder, even if
        the folder was created again since.
        """
        try:
            (attempt_dir / MARK).unlink()
        except FileNotFoundError:
            shutil.rmtree(attempt_dir, ignore_errors=True)
            if (standing := self.result(stage)) is not None:
                return standing
            raise AttemptSuperseded(f"{attempt_dir}: a later attempt has taken over") from None
        files = hash_files(attempt_dir)
        manifest: Manifest = {"stage": stage, "files": files, "result": result.as_json()}
        write_json(attempt_dir / MANIFEST, manifest)
        sync_tree(attempt_dir)
        try:
            attempt_dir.rename(self.stage_dir(stage))
        except OSError:
            standing = self.result(stage)
            if standing is None:
                raise
            shutil.rmtree(attempt_dir, ignore_errors=True)
            return standing
        sync_path(self.root)
        return result


def _without_secrets(value: object) -> object:
    """JSON without what may be secret in URLs: their logins and queries."""
    if isinstance(value, dict):
        return {name: _without_secrets(it) for name, it in value.items()}
    if isinstance(value, list):
        return [_without_secrets(it) for it in value]
    if isinstance(value, str) and "://" in value:
        return _LOGIN.sub("://", value.partition("?")[0])
    return value


def hash_files(folder: Path) -> Files:
    """Relative name -> {bytes, sha256} of each file below `folder`, without the manifest."""
    files: Files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            files[name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    return files


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(
    path: Path, value: object, mode: int | None = None, group: int | None = None
) -> None:
    """Write JSON atomically: a temporary file beside it, fsync, rename.

    `mode` and `group` (an id) are set before the content is written; None leaves the usual ones.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        if group is not None:
            os.fchown(file.fileno(), -1, group)
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically, without fsync."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def sync_tree(folder: Path) -> None:
    """fsync `folder` and all files and folders below it."""
    for path in [*folder.rglob("*"), folder]:
        sync_path(path)


def sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
