"""Where each file of a job lies, and how a stage's files are committed.

    JOB/spec.json  job.json  log/STAGE.log
    JOB/preprocess/  train/  evaluate/  convert/   committed stages, each with a manifest.json
    JOB/checkpoints/ATTEMPT/step-N/                training's checkpoints, outlasting attempts
    JOB/attempts/STAGE-ATTEMPT/                    what a running attempt writes, until it commits

A stage is finished when `JOB/STAGE/manifest.json` exists: it is the last file written before the
one rename that brings the attempt's folder to its place.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lorajob.errors import AttemptSuperseded, StageError
from lorajob.job.results import StageResult

STAGES = ("preprocess", "train", "evaluate", "convert")
JOB_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MANIFEST = "manifest.json"
MARK = ".attempt"  # in an attempt's folder from its beginning to its commit


@dataclass(frozen=True)
class JobDir:
    """The folder of one job; every path in it is asked for here."""

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

    def log_path(self, stage: str) -> Path:
        return self.root / "log" / f"{stage}.log"

    def stage_dir(self, stage: str) -> Path:
        return self.root / stage

    def new_attempt(self, stage: str, attempt: int) -> Path:
        """An empty folder for this attempt's files; what this and earlier attempts left is removed.

        An earlier one that still runs has lost its claim; a later one is left alone.
        """
        attempts = self.root / "attempts"
        path = attempts / f"{stage}-{attempt}"
        for left in attempts.glob(f"{stage}-*"):
            number = left.name.rpartition("-")[2]
            if number.isdigit() and int(number) <= attempt:
                gone = left.with_name(f".gone-{left.name}")
                shutil.rmtree(gone, ignore_errors=True)
                left.rename(gone)  # at once, for whoever still writes there
                shutil.rmtree(gone, ignore_errors=True)
        path.mkdir(parents=True)
        (path / MARK).touch()
        return path

    def last_attempt(self, stage: str) -> int:
        """The highest number of an attempt at `stage` that left a trace; 0 without one."""
        folders = list((self.root / "attempts").glob(f"{stage}-*"))
        if stage == "train":
            folders += self.checkpoints.glob("*")
        numbers = [path.name.rpartition("-")[2] for path in folders]
        return max((int(number) for number in numbers if number.isdigit()), default=0)

    def result(self, stage: str) -> StageResult | None:
        """What the finished stage returned, or None while it is not finished.

        Raises StageError where its manifest is damaged.
        """
        path = self.stage_dir(stage) / MANIFEST
        try:
            return StageResult.model_validate(json.loads(path.read_bytes())["result"])
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError):
            raise StageError(f"{path} is damaged; remove its folder to run it again") from None

    def require(self, *stages: str) -> None:
        """Raise StageError unless all of `stages` are finished."""
        for stage in stages:
            if self.result(stage) is None:
                raise StageError(f"{self.root}: stage {stage} has not finished; run it first")

    def commit(self, stage: str, attempt_dir: Path, result: StageResult) -> StageResult:
        """Make an attempt's folder the stage's: fsync, manifest, one rename. Returns the result.

        The first commit wins. A later one is discarded, and the result that stands is returned.
        Raises AttemptSuperseded if a later attempt removed the folder, even if it was made anew.
        """
        try:
            (attempt_dir / MARK).unlink()
        except FileNotFoundError:
            shutil.rmtree(attempt_dir, ignore_errors=True)
            if (standing := self.result(stage)) is not None:
                return standing
            raise AttemptSuperseded(f"{attempt_dir}: a later attempt has taken over") from None
        files = hash_files(attempt_dir)
        manifest = {"stage": stage, "files": files, "result": result.as_json()}
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


def hash_files(folder: Path) -> dict[str, dict[str, int | str]]:
    """Relative name -> {bytes, sha256} of every file below `folder`, manifest apart."""
    files: dict[str, dict[str, int | str]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            files[name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    return files


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all: a temporary file beside it, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, and itself."""
    for path in [*folder.rglob("*"), folder]:
        sync_path(path)


def sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
