"""The file of text that a job takes along (`evaluate.text`): checked, hashed and copied."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorajob.errors import FilesError, LorajobError, UsageError
from lorajob.job.jobdir import TEXT, hash_file
from lorajob.spec import JobSpec
from lorajob.storage.locations import Folder
from lorajob.storage.store import Store
from lorajob.storage.urls import is_url, public


def with_text(spec: JobSpec) -> JobSpec:
    """The spec with the absolute path or url, and the hash, of its file of text.

    The whole file is read; one behind a url is downloaded first. Raises UsageError if it is
    missing, is not UTF-8, has no letters, or is another one than the settings name, and StoreError.
    """
    if spec.evaluate.text is None:
        return spec
    name = spec.evaluate.text.replace("{language}", spec.language)
    with _checked(name, spec.language) as path:
        place = name if is_url(name) else str(path)
        found = hash_file(path)
    if spec.evaluate.text_sha256 not in (None, found):
        raise UsageError(
            f"evaluate.text: {public(place)} is another file than the settings name: sha256 "
            f"{found}, evaluate.text_sha256 {spec.evaluate.text_sha256}; leave "
            "evaluate.text_sha256 out"
        )
    changes = {"text": place, "text_sha256": found}
    evaluate = spec.evaluate.model_copy(update=changes)
    return spec.model_copy(update={"evaluate": evaluate})


@contextmanager
def _checked(place: str, language: str) -> Iterator[Path]:
    """The file of text at a path or url, after a look at each of its lines. It stays while the
    block runs.

    Raises UsageError if it is missing, is not UTF-8 or has no words, and StoreError.
    """
    from lorajob.corpora.texts import text_in_use
    from lorajob.speech.text import normalise
    from lorajob.speech.text_file import lines_of_file

    try:
        with text_in_use(place) as path:
            has_words = False
            for line in lines_of_file(path):
                has_words = has_words or bool(normalise(line, language))
            if not has_words:
                shown = public(place) if is_url(place) else path
                raise UsageError(f"{shown} has no words; give a sentence a line")
            yield path
    except FilesError as error:
        raise UsageError(f"evaluate.text: {error}") from None
    except LorajobError as error:
        # A file behind a url is fetched as a corpus is.
        raise type(error)(f"evaluate.text: {str(error).removeprefix('corpus: ')}") from None


def copy_text(spec: JobSpec, target: Folder | Store) -> None:
    """Copy the file of text to the files of a job. Raises UsageError if it has changed."""
    if spec.evaluate.text is None:
        return
    from lorajob.corpora.texts import text_in_use

    try:
        with text_in_use(spec.evaluate.text) as path:
            target.upload(path, TEXT)
            same = hash_file(path) == spec.evaluate.text_sha256
    except (FileNotFoundError, UsageError):
        same = False
    if not same:
        place = public(spec.evaluate.text)
        raise UsageError(f"evaluate.text: {place} has changed meanwhile; submit again")
