"""The files that settings name beside the corpora, `evaluate.text` and `evaluate.glossary`.

Together they are checked, hashed and copied to a job. A language of a batch whose file is missing
is rejected. Its job gets the file when it is retried.
"""

import json
from contextlib import suppress

from lorajob.errors import LorajobError, UsageError
from lorajob.job.jobdir import GLOSSARY, TEXT
from lorajob.spec import JobSpec
from lorajob.storage.hashes import file_hash
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store
from lorajob.storage.urls import local_path
from lorajob.tasks.job_glossary import copy_glossary, with_glossary
from lorajob.tasks.texts import copy_text, with_text
from lorajob.tasks.verify import hash_at
from lorajob.worker.artifacts.lookup import find_job, open_job
from lorajob.worker.artifacts.signature import put_signature, unsigned
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings


def with_named(spec: JobSpec) -> tuple[JobSpec, LorajobError | None]:
    """The spec with the absolute places and hashes of its files, and None.

    If a file is missing, malformed or cannot be read: the spec with the absolute places, and the
    error.
    """
    try:
        return with_text(with_glossary(spec)), None
    except LorajobError as error:
        return with_places(spec), error


def with_places(spec: JobSpec) -> JobSpec:
    """The spec with the absolute places of its files, which may be missing."""
    names = {"text": spec.evaluate.text, "glossary": spec.evaluate.glossary}
    changes = {key: _place(name, spec) for key, name in names.items() if name is not None}
    evaluate = spec.evaluate.model_copy(update=changes)
    return spec.model_copy(update={"evaluate": evaluate})


def _place(name: str, spec: JobSpec) -> str:
    name = name.replace("{language}", spec.language)
    path = local_path(name)
    # An unknown ~user; a null byte; a link to itself.
    with suppress(RuntimeError, ValueError, OSError):
        return name if path is None else str(path.expanduser().resolve())
    return name


def copy_named(spec: JobSpec, target: Folder | Store, refused: bool = False) -> None:
    """Copy the files to those of a job. Raises UsageError if one has changed.

    A `refused` job gets those that can be read. `complete_named` copies the others.
    """
    wanted = spec.evaluate
    for copy, sha256 in ((copy_text, wanted.text_sha256), (copy_glossary, wanted.glossary_sha256)):
        if refused and sha256 is None:
            continue  # it could not be read
        try:
            copy(spec, target)
        except (LorajobError, OSError, ValueError):  # ValueError: a null byte in a path
            if not refused:
                raise


def changed_named(spec: JobSpec, job_id: str, settings: Settings) -> list[str]:
    """A note for each file that differs from the one that a job took along.

    The places of the spec are absolute. Files behind a url, and what cannot be read, are left out.
    """
    notes = []
    with suppress(LorajobError, OSError, ValueError):
        written = json.loads(find_job(job_id, settings).location.read("spec.json") or b"{}")
        for name in ("text", "glossary"):
            place = getattr(spec.evaluate, name)
            taken = written.get("evaluate", {}).get(f"{name}_sha256")
            path = local_path(place) if place is not None and taken is not None else None
            if path is not None and path.is_file() and file_hash(path) != taken:
                notes.append(
                    f"{job_id}: evaluate.{name}: {path} has changed since; to use it, submit with "
                    "--anew"
                )
    return notes


def complete_named(record: JobRecord, settings: Settings) -> None:
    """Give a rejected job the files that it lacks, and sign its settings again.

    Raises UsageError if a file is still missing. If there is a signing key, raises UsageError for
    settings that are not signed with it, before a file that they name is read.
    """
    files = open_job(record, settings)
    if not files.has_spec():
        return  # its stage says so
    with files.local(lambda: record) as job:
        refusal = unsigned(files, job, settings.signing_key)
        if refusal is not None:
            raise UsageError(refusal.message)
        found = JobSpec.load(job.spec_path)
    spec, asked = found, found.evaluate
    if asked.text is not None and not _copied(files.location, TEXT, asked.text_sha256):
        spec = with_text(spec)
        copy_text(spec, files.location)
    if asked.glossary is not None and not _copied(files.location, GLOSSARY, asked.glossary_sha256):
        spec = with_glossary(spec)
        copy_glossary(spec, files.location)
    if spec == found:
        return
    written = spec.as_written()
    files.put_spec(written)
    put_signature(files.location, settings.signing_key, record.id, written)


def _copied(location: Folder | Store, name: str, sha256: str | None) -> bool:
    return sha256 is not None and hash_at(location, name) == sha256
