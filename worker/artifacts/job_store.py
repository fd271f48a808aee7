"""A job's files in a store that every machine reaches, and their copies on this one.

    JOB/spec.json  job.json  report.html
    JOB/start/                           the adapter that training starts from, if it is another's
    JOB/book/text                        the text of `evaluate.text`, if there is one
    JOB/book/glossary.txt                the terms of `evaluate.glossary`, if there is one
    JOB/STAGE/attempt-ATTEMPT.json      the manifest of the files that this attempt committed
    JOB/STAGE/TREE/                     its files; TREE is a hash of their names, sizes and hashes
    JOB/checkpoints/ATTEMPT-STEP/       the newest checkpoint of training
    JOB/log/STAGE/ATTEMPT.log           the log of that attempt

ATTEMPT is the number of the claim. The record holds the number of the attempt with which a stage
succeeded. Each attempt writes only files of its own number, and the name of a tree follows from its
content. A superseded owner can therefore overwrite nothing, and an interrupted upload is continued
by the next attempt.
"""

import fcntl
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from lorajob.job.jobdir import (
    ADAPTER_FILES,
    ADAPTER_WEIGHTS,
    GLOSSARY,
    MANIFEST,
    REPORT,
    STAGES,
    START,
    TEXT,
    FileEntry,
    Files,
    JobDir,
    Manifest,
    hash_file,
    write_json,
)
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.storage.bases import BASES, fetch_base, is_stored_base
from lorajob.storage.folders import job_lock, locked, remove_folder
from lorajob.storage.store import Check, DamageError, GoneError, Store, StoreError, unhurried
from lorajob.worker.records.record import JobRecord

ATTEMPT = re.compile(r"attempt-(\d+)\.json")
# The files that a stage needs of earlier stages, by the start of their names.
NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "preprocess": {},
    "train": {"preprocess": ("train/",)},
    "evaluate": {"preprocess": ("test/", "guard-", "report.json"), "train": ("adapter/",)},
    "convert": {
        "preprocess": ("test/", "report.json"),
        "train": ("adapter/", "history.jsonl"),  # the page about the job shows its curves
        "evaluate": ("",),
    },
}
STORED = ".stored"  # a folder beside a job's stages: marks what the store has of them

logger = logging.getLogger(__name__)


class JobStore:
    """One job in the store, and its folder on this machine.

    Methods raise StoreError if the store is unavailable, and DamageError if its content is not what
    was uploaded.
    """

    def __init__(self, url: str, workplace: Path) -> None:
        self.store = Store(url)
        self.job = JobDir(workplace / self.store.url.rpartition("/")[2])

    # -- committed stages

    def push(self, stage: str, attempt: int, check: Check = unhurried) -> None:
        """Upload a stage that is committed on this machine.

        Each file is read back and compared. The manifest of this attempt is written last.
        """
        manifest = self._local_manifest(stage)
        if manifest is None:
            raise DamageError(f"{self.job.stage_dir(stage)}: no manifest here to upload")
        self.push_files(self.job.stage_dir(stage), manifest["files"], _tree(stage, manifest), check)
        self._point(stage, attempt, manifest)
        self._mark(stage, manifest)

    def push_files(
        self,
        folder: Path,
        files: Files,
        target: str,
        check: Check,
        stored: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Upload the files that are missing or different in the store.

        `stored` maps hashes of other files of this job in the store to their names. The store
        copies these by itself.
        """
        there = self.store.names(target)
        for name, entry in files.items():
            check()
            key = f"{target}/{name}"
            if there.get(key) == entry["bytes"] and self._is(key, entry, check):
                continue
            known = stored.get(str(entry["sha256"]))
            if known is not None and self.store.copy(known, key) and self._is(key, entry, check):
                continue
            self.store.upload(folder / name, key)
            if not self._is(key, entry, check):
                if hash_file(folder / name) != entry["sha256"]:
                    raise DamageError(f"{folder / name} has changed since its stage committed it")
                raise DamageError(f"{self.store.url}/{key} is not what was uploaded")

    def adopt(self, stage: str, attempt: int) -> StageResult | None:
        """Take over a stage that an earlier attempt uploaded but did not commit to the record.

        Returns its result, which is this attempt's from now on; None if there is no such stage.
        """
        found = self.attempts(stage)
        if not found:
            return None
        manifest = self.manifest(stage, max(found))
        self._point(stage, attempt, manifest)
        return StageResult.model_validate(manifest["result"])

    def fetch_stage(
        self,
        stage: str,
        attempt: int,
        needed: tuple[str, ...] = ("",),
        check: Check = unhurried,
    ) -> None:
        """Download the manifest of an attempt, and its files whose names start with `needed`.

        Local files of another attempt are removed first. If another process on this machine fetches
        files of the same job, this one waits for it.
        """
        with locked(job_lock(self.job.root, ".fetch"), fcntl.LOCK_EX, check):
            self._fetch_stage(stage, attempt, needed, check)

    def _fetch_stage(self, stage: str, attempt: int, needed: tuple[str, ...], check: Check) -> None:
        manifest = self.manifest(stage, attempt)
        folder = self.job.stage_dir(stage)
        local = self._local_manifest(stage)
        if folder.exists() and (local is None or local["files"] != manifest["files"]):
            logger.info("%s is of another attempt, and is fetched again", folder)
            self._unmark(stage)
            remove_folder(folder)
        for name, entry in manifest["files"].items():
            path = folder / name
            if not name.startswith(needed) or _size(path) == entry["bytes"]:
                continue
            key = f"{_tree(stage, manifest)}/{name}"
            if self.store.download(key, path, check) != entry["sha256"]:
                path.unlink(missing_ok=True)
                raise DamageError(
                    f"{self.store.url}/{key} is not as the manifest of stage {stage} says"
                )
        if self._local_manifest(stage) is None:
            write_json(folder / MANIFEST, manifest)
        self._mark(stage, manifest)

    def fetch_for(self, stage: str, record: JobRecord, check: Check = unhurried) -> None:
        """Download what `stage` needs: the spec, files of earlier stages, a base in the store."""
        spec = self.fetch_spec()
        for earlier in STAGES[: STAGES.index(stage)]:
            needed = NEEDS[stage].get(earlier, ())
            if stage == "evaluate" and earlier == "preprocess" and spec.evaluate.text is not None:
                needed = (*needed, "train/")
            self.fetch_stage(earlier, record.stages[earlier].attempt, needed, check)
        if is_stored_base(spec.base_model):
            # In the store of the settings, whatever store the spec names.
            bases = Store(f"{self.store.url.rpartition('/')[0]}/{BASES}")
            fetch_base(spec.base_model, bases, check)
        if stage == "train" and spec.start.job is not None:
            self._fetch_start(spec.start.adapter_sha256, check)
        if stage == "evaluate" and spec.evaluate.text is not None:
            self._fetch_book(TEXT, spec.evaluate.text_sha256, check)
        if stage == "evaluate" and spec.evaluate.glossary is not None:
            self._fetch_book(GLOSSARY, spec.evaluate.glossary_sha256, check)

    def _fetch_book(self, name: str, wanted: str | None, check: Check) -> None:
        """Download the text or the glossary that the evaluation uses."""
        path = self.job.root / name
        if path.is_file() and hash_file(path) == wanted:
            return
        if self.store.download(name, path, check) != wanted:
            path.unlink()
            raise DamageError(f"{self.store.url}/{name} is not as submitted")

    def _fetch_start(self, wanted: str | None, check: Check) -> None:
        """Download the adapter that the training starts from."""
        weights = self.job.start / ADAPTER_WEIGHTS
        if weights.is_file() and hash_file(weights) == wanted:
            return
        for name in ADAPTER_FILES:
            got = self.store.download(f"{START}/{name}", self.job.start / name, check)
        if got != wanted:
            weights.unlink()
            raise DamageError(f"{self.store.url}/{START}/{ADAPTER_WEIGHTS} is not as submitted")

    def read_spec(self) -> bytes:
        """The spec in the store. Raises GoneError if it is missing.

        Pruning removes the spec first, so a missing spec means that the job was pruned.
        """
        data = self.store.read("spec.json")
        if data is None:
            raise GoneError(f"{self.store.url}/spec.json is missing")
        return data

    def fetch_spec(self) -> JobSpec:
        """Download the job's spec as it was submitted, and return it."""
        data = self.read_spec()
        path = self.job.spec_path
        if not path.is_file() or path.read_bytes() != data:
            try:
                write_json(path, json.loads(data))
            except ValueError as error:
                raise DamageError(f"{self.store.url}/spec.json is damaged: {error}") from None
        self._write_mark("spec", hashlib.sha256(data).hexdigest())
        return JobSpec.load(path)

    def last_attempt(self, stage: str) -> int:
        """The highest attempt at `stage` that left files, on this machine or in the store."""
        attempts = [self.job.last_attempt(stage), *self.attempts(stage)]
        if stage == "train":
            attempts += [attempt for attempt, _ in self.checkpoints()]
        return max(attempts)

    def checkpoints(self) -> list[tuple[int, int]]:
        """(attempt, step) of the complete checkpoints in the store, the newest last."""
        found = []
        for name in self.store.names("checkpoints"):
            _, place, *rest = name.split("/")
            attempt, _, step = place.partition("-")
            if rest == [MANIFEST] and attempt.isdigit() and step.isdigit():
                found.append((int(attempt), int(step)))
        return sorted(found)

    def attempts(self, stage: str) -> list[int]:
        """The numbers of the attempts that committed the stage."""
        names = (name.split("/", 1)[1] for name in self.store.names(stage))
        return [int(match[1]) for name in names if (match := ATTEMPT.fullmatch(name))]

    def manifest(self, stage: str, attempt: int) -> Manifest:
        """The manifest of what the attempt committed, with its `tree` and `result`."""
        name = f"{stage}/attempt-{attempt}.json"
        data = self.store.read(name)
        if data is None:
            raise DamageError(f"{self.store.url}/{name} is missing, and with it stage {stage}")
        manifest = parse_manifest(data, f"{self.store.url}/{name}")
        if manifest.get("tree") != tree_name(manifest) or "result" not in manifest:
            raise DamageError(f"{self.store.url}/{name} is damaged: its parts do not fit together")
        return manifest

    # -- logs

    def push_log(self, stage: str, attempt: int, start: int) -> None:
        """Upload the part of the stage's local log after its first `start` bytes."""
        path = self.job.log_path(stage)
        if path.is_file():
            with path.open("rb") as file:
                file.seek(start)
                self.store.write(f"log/{stage}/{attempt}.log", file.read())

    def push_report(self) -> None:
        """Upload the page about the job, if it was drawn. A store that refuses it is only logged:
        `lorajob report` can draw it from the files of the stages.
        """
        if not self.job.report_path.is_file():
            return
        try:
            self.store.upload(self.job.report_path, REPORT)
        except StoreError as error:
            logger.warning("%s/%s is not uploaded: %s", self.store.url, REPORT, error)

    # -- this machine

    @property
    def safe(self) -> bool:
        """Whether the store has everything that the folder on this machine holds."""
        if self._marked("spec") is None:  # the job was submitted before there was a store
            return False
        for stage in STAGES:
            manifest = self._local_manifest(stage)
            if manifest is not None and self._marked(stage) != tree_name(manifest):
                return False
        newest = max(local_checkpoints(self.job), default=None)
        over = self._local_manifest("train") is not None
        return over or newest is None or self._marked("checkpoint") == f"{newest[0]}-{newest[1]}"

    def mark_checkpoint(self, attempt: int, step: int) -> None:
        """Remember that this checkpoint is in the store."""
        self._write_mark("checkpoint", f"{attempt}-{step}")

    def _local_manifest(self, stage: str) -> Manifest | None:
        try:
            manifest: Manifest = json.loads((self.job.stage_dir(stage) / MANIFEST).read_bytes())
            return manifest if isinstance(manifest["files"], dict) else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _point(self, stage: str, attempt: int, manifest: Manifest) -> None:
        text = json.dumps(manifest | {"tree": tree_name(manifest)}, ensure_ascii=False, indent=2)
        self.store.write(f"{stage}/attempt-{attempt}.json", text.encode())

    def _is(self, key: str, entry: FileEntry, check: Check) -> bool:
        return self.store.hash(key, check) == str(entry["sha256"])

    def _mark(self, stage: str, manifest: Manifest) -> None:
        self._write_mark(stage, tree_name(manifest))

    def _write_mark(self, name: str, text: str) -> None:
        path = self.job.root / STORED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def _unmark(self, stage: str) -> None:
        (self.job.root / STORED / stage).unlink(missing_ok=True)

    def _marked(self, name: str) -> str | None:
        path = self.job.root / STORED / name
        return path.read_text("utf-8") if path.is_file() else None


def parse_manifest(data: bytes, place: str) -> Manifest:
    """Parse a manifest from the store.

    Raises DamageError if it is malformed, or names a file outside the manifest's folder.
    """
    try:
        manifest: Manifest = json.loads(data)
        for name, entry in manifest["files"].items():
            entry["bytes"], entry["sha256"]
            path = PurePosixPath(name)
            plain = str(path) == name and path.parts and not path.is_absolute()
            if not plain or ".." in path.parts or "\0" in name:
                raise ValueError(f"{name!r} is not the name of a file below it")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamageError(f"{place} is damaged: {error}") from None
    return manifest


def tree_name(manifest: Manifest) -> str:
    """A short hash of all that a stage committed, by name, size and hash."""
    text = json.dumps(manifest["files"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def local_checkpoints(job: JobDir) -> list[tuple[int, int]]:
    """(attempt, step) of the local checkpoints that have a manifest, the newest last."""
    found = []
    for path in job.checkpoints.glob(f"*/step-*/{MANIFEST}"):
        attempt, step = path.parent.parent.name, path.parent.name.removeprefix("step-")
        if attempt.isdigit() and step.isdigit():
            found.append((int(attempt), int(step)))
    return sorted(found)


def _tree(stage: str, manifest: Manifest) -> str:
    return f"{stage}/{tree_name(manifest)}"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
