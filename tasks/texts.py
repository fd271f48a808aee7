"""The file of text that a job takes along (`evaluate.text`): checked, hashed and copied."""

from pathlib import Path

from lorajob.errors import FilesError, UsageError
from lorajob.job.jobdir import TEXT, hash_file
from lorajob.spec import JobSpec
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store
from lorajob.storage.urls import is_url


def with_text(spec: JobSpec) -> JobSpec:
    """The spec with the absolute path and the hash of its file of text.

    The whole file is read. Raises UsageError if it is missing, is not UTF-8, has no letters, or is
    another one than the settings name.
    """
    if spec.evaluate.text is None:
        return spec
    from lorajob.speech.text import normalise
    from lorajob.speech.text_file import lines_of_file

    name = spec.evaluate.text.replace("{language}", spec.language)
    if is_url(name):
        raise UsageError("evaluate.text: give a file of this machine, not a url")
    try:
        path = Path(name).expanduser().resolve()
        # A device or a pipe may have no end.
        if not path.is_file():
            raise UsageError(f"evaluate.text: {str(path)[:200]} is no file on this machine")
        has_words = False
        for line in lines_of_file(path):
            has_words = has_words or bool(normalise(line, spec.language))
    except (FilesError, RuntimeError, ValueError) as error:
        raise UsageError(f"evaluate.text: {error}") from None
    except OSError as error:
        raise UsageError(f"evaluate.text: {name[:80]!r}: {error.strerror or error}") from None
    if not has_words:
        raise UsageError(f"evaluate.text: {path} has no words; give a sentence a line")
    found = hash_file(path)
    if spec.evaluate.text_sha256 not in (None, found):
        raise UsageError(
            f"evaluate.text: {path} is another file than the settings name: sha256 {found}, "
            f"evaluate.text_sha256 {spec.evaluate.text_sha256}; leave evaluate.text_sha256 out"
        )
    changes = {"text": str(path), "text_sha256": found}
    evaluate = spec.evaluate.model_copy(update=changes)
    return spec.model_copy(update={"evaluate": evaluate})


def copy_text(spec: JobSpec, target: Folder | Store) -> None:
    """Copy the file of text to the files of a job. Raises UsageError if it has changed."""
    if spec.evaluate.text is None:
        return
    path = Path(spec.evaluate.text)
    try:
        target.upload(path, TEXT)
        same = hash_file(path) == spec.evaluate.text_sha256
    except FileNotFoundError:
        same = False
    if not same:
        raise UsageError(f"evaluate.text: {path} has changed meanwhile; submit again")
