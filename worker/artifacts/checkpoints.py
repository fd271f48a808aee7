"""Copies a training's checkpoints between this machine and the store of its job."""

import json
import logging
from pathlib import Path

from lorajob.job.jobdir import MANIFEST
from lorajob.storage.folders import remove_folder
from lorajob.storage.store import Check, DamageError, unhurried
from lorajob.worker.artifacts.job_store import JobStore, local_checkpoints, parse_manifest

logger = logging.getLogger(__name__)


def push_checkpoint(stored: JobStore, check: Check = unhurried) -> None:
    """Upload the newest local checkpoint, unless the store has one that is as new.

    Files that have not changed since the last one, such as most of the history, are not sent. A
    checkpoint that training removes meanwhile is skipped. Raises StoreError.
    """
    there = stored.checkpoints()
    newest = max(local_checkpoints(stored.job), default=None)
    if newest is None or (there and there[-1] > newest):
        return
    attempt, step = newest
    folder, target = _folder(stored, attempt, step), f"checkpoints/{attempt}-{step}"
    if newest not in there:
        try:
            manifest = (folder / MANIFEST).read_bytes()
            files, same = json.loads(manifest)["files"], _stored_files(stored, there)
            stored.push_files(folder, files, target, check, same)
        except (FileNotFoundError, DamageError) as error:
            if (folder / MANIFEST).is_file():
                raise
            logger.info("%s was removed before it was in the store: %s", folder, error)
            return
        stored.store.write(f"{target}/{MANIFEST}", manifest)
    stored.mark_checkpoint(attempt, step)
    for older in there:
        if older < newest:
            stored.store.remove(f"checkpoints/{older[0]}-{older[1]}")


def _stored_files(stored: JobStore, there: list[tuple[int, int]]) -> dict[str, str]:
    """Hash -> name of the files of the newest checkpoint in the store."""
    if not there:
        return {}
    folder = "checkpoints/{}-{}".format(*there[-1])
    try:
        data = stored.store.read(f"{folder}/{MANIFEST}")
        files = parse_manifest(data, folder)["files"] if data is not None else {}
    # Then all files are sent.
    except DamageError as error:
        logger.warning("%s", error)
        return {}
    return {str(entry["sha256"]): f"{folder}/{name}" for name, entry in files.items()}


def fetch_checkpoint(stored: JobStore, check: Check = unhurried) -> None:
    """Download the newest checkpoint of the store, unless this machine has one that is as new.

    A damaged checkpoint is logged and skipped.
    """
    here = max(local_checkpoints(stored.job), default=(0, 0))
    for attempt, step in reversed([found for found in stored.checkpoints() if found > here]):
        try:
            _fetch(stored, attempt, step, check)
        except DamageError as error:
            logger.warning("the checkpoint of step %d is skipped: %s", step, error)
            continue
        stored.mark_checkpoint(attempt, step)
        return


def _fetch(stored: JobStore, attempt: int, step: int, check: Check) -> None:
    source, folder = f"checkpoints/{attempt}-{step}", _folder(stored, attempt, step)
    scratch = folder.with_name(f".{folder.name}")
    if scratch.exists():
        remove_folder(scratch)
    data = stored.store.read(f"{source}/{MANIFEST}")
    if data is None:
        raise DamageError(f"{stored.store.url}/{source}/{MANIFEST} is missing")
    manifest = parse_manifest(data, f"{stored.store.url}/{source}/{MANIFEST}")
    for name, entry in manifest["files"].items():
        if stored.store.download(f"{source}/{name}", scratch / name, check) != entry["sha256"]:
            raise DamageError(f"{stored.store.url}/{source}/{name} is not as its manifest says")
    (scratch / MANIFEST).write_bytes(data)
    if folder.exists():  # it has no manifest, otherwise it would not be fetched
        remove_folder(folder)
    scratch.rename(folder)


def _folder(stored: JobStore, attempt: int, step: int) -> Path:
    return stored.job.checkpoints / str(attempt) / f"step-{step}"
