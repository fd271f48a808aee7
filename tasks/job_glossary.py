"""The glossary that a job takes along (`evaluate.glossary`): checked, hashed and copied."""

import hashlib
from pathlib import Path

from lorajob.book.terms import GlossaryError, decode_glossary
from lorajob.errors import UsageError
from lorajob.job.jobdir import GLOSSARY
from lorajob.spec import JobSpec
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store
from lorajob.storage.urls import is_named, is_url, local_path, public
from lorajob.tasks.glossaries import MOST_BYTES


def with_glossary(spec: JobSpec) -> JobSpec:
    """The spec with the absolute path or url, and the hash, of its glossary.

    Raises UsageError if it is missing or malformed, or another one than the settings name, and
    StoreError.
    """
    if spec.evaluate.glossary is None:
        return spec
    name = spec.evaluate.glossary.replace("{language}", spec.language)
    if is_named(name):
        raise UsageError(f"evaluate.glossary: {name!r} is neither a file nor a url")
    try:
        path = local_path(name)
        place = name if path is None else str(path.expanduser().resolve())
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"evaluate.glossary: {error}") from None
    data = _read(place)
    try:
        if not decode_glossary(data).terms:
            raise UsageError(f"evaluate.glossary: {public(place)} has no terms")
    except GlossaryError as error:
        raise UsageError(f"evaluate.glossary: {public(place)}: {error}") from None
    found = hashlib.sha256(data).hexdigest()
    if spec.evaluate.glossary_sha256 not in (None, found):
        raise UsageError(
            f"evaluate.glossary: {public(place)} is another file than the settings name: sha256 "
            f"{found}, evaluate.glossary_sha256 {spec.evaluate.glossary_sha256}; leave "
            "evaluate.glossary_sha256 out"
        )
    changes = {"glossary": place, "glossary_sha256": found}
    evaluate = spec.evaluate.model_copy(update=changes)
    return spec.model_copy(update={"evaluate": evaluate})


def copy_glossary(spec: JobSpec, target: Folder | Store) -> None:
    """Copy the glossary to the files of a job. Raises UsageError if it has changed."""
    if spec.evaluate.glossary is None:
        return
    data = _read(spec.evaluate.glossary)
    if hashlib.sha256(data).hexdigest() != spec.evaluate.glossary_sha256:
        raise UsageError(
            f"evaluate.glossary: {public(spec.evaluate.glossary)} has changed meanwhile; submit "
            "again"
        )
    target.write(GLOSSARY, data)


def _read(place: str) -> bytes:
    """The bytes of a small file or url. Raises UsageError if it is missing or too large."""
    if is_url(place):
        folder, _, name = place.rpartition("/")
        store = Store(folder)
        info = store.info(name)
        size = None if info is None else info.get("size")
        if isinstance(size, int) and size > MOST_BYTES:
            raise _too_large(place)
        data = store.read(name)
    else:
        try:
            # Not a pipe or a device, which could wait for ever.
            if Path(place).exists() and not Path(place).is_file():
                raise UsageError(f"evaluate.glossary: {place} is not a file")
            with Path(place).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            data = None
        except OSError as error:
            raise UsageError(f"evaluate.glossary: {place}: {error.strerror}") from None
    if data is None:
        raise UsageError(f"evaluate.glossary: {public(place)} does not exist")
    if len(data) > MOST_BYTES:
        raise _too_large(place)
    return data


def _too_large(place: str) -> UsageError:
    limit = f"{MOST_BYTES >> 20} MB"
    return UsageError(f"evaluate.glossary: {public(place)} has over {limit}; is it a glossary?")
