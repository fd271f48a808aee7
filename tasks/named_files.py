"""The files that settings name beside the corpora, `evaluate.text` and `evaluate.glossary`.

Together they are checked, hashed and copied to a job. A language of a batch whose file is missing
is rejected. Its job gets the file when it is retried.
"""

from contextlib import suppress
from pathlib import Path

from lorajob.errors import UsageError
from lorajob.job.jobdir import GLOSSARY, TEXT
from lorajob.spec import JobSpec
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store
from lorajob.storage.urls import local_path
from lorajob.tasks.job_glossary import copy_glossary, with_glossary
from lorajob.tasks.texts import copy_text, with_text
from lorajob.worker.artifacts.lookup import open_job
from lorajob.worker.artifacts.signature import put_signature
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings


def with_named(spec: JobSpec) -> tuple[JobSpec, UsageError | None]:
    """The spec with the absolute places and hashes of its files, and None.

    If a file is missing or malformed: the spec with the absolute places, and the error.
    """
    try:
        return with_text(with_glossary(spec)), None
    except UsageError as error:
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

    A `refused` job gets those that are there.
    """
    for copy in (copy_text, copy_glossary):
        try:
            copy(spec, target)
        except UsageError:
            if not refused:
                raise


def complete_named(record: JobRecord, settings: Settings) -> None:
    """Give a rejected job the files that were missing. Raises UsageError if one still is."""
    files = open_job(record, settings)
    if not files.has_spec():
        return  # its stage says so
    with files.local(lambda: record) as job:
        spec = JobSpec.load(job.spec_path)
    wanted = spec.evaluate
    if (wanted.text is None or _copied(files.location, TEXT, wanted.text_sha256)) and (
        wanted.glossary is None or _copied(files.location, GLOSSARY, wanted.glossary_sha256)
    ):
        return
    spec = with_text(with_glossary(spec))
    copy_named(spec, files.location)
    written = spec.as_written()
    files.put_spec(written)
    put_signature(files.location, settings.signing_key, record.id, written)


def _copied(location: Folder | Store, name: str, sha256: str | None) -> bool:
    if isinstance(location, Folder):
        there = Path(location.path, name).is_file()
    else:
        there = location.info(name) is not None
    return there and sha256 is not None
