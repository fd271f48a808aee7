"""The glossaries of languages and jobs: terms that `lorajob serve` listens for.

ARTIFACTS/.glossaries/NAME.txt, in the folder or store of the jobs, holds a term a line. NAME is the
code of a language or the id of a job. The file is replaced as a whole, so a reader sees the old or
the new one. Redis is not needed.
"""

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lorajob.book.terms import Glossary, GlossaryError, merge_glossaries, read_glossary, terms_of
from lorajob.corpora.remote import VERSION_FIELDS
from lorajob.errors import JobNotFoundError, StageError, UsageError
from lorajob.job.jobdir import JOB_ID
from lorajob.languages import find_language
from lorajob.storage.folders import LOCKS, locked
from lorajob.storage.locations import Folder
from lorajob.worker.artifacts.lookup import find_job, jobs_location
from lorajob.worker.settings import Settings

FOLDER = ".glossaries"  # no job has such a name
MOST_BYTES = 64 << 20  # of a file
NAMED = 5  # terms in one line of an error


class StoredGlossary(BaseModel):
    """A glossary as a list shows it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """Code of the language, or id of the job."""
    of: Literal["language", "job"]
    terms: int
    """How many; 0 if the file is damaged."""
    damaged: str | None = None
    """What is wrong with the file, and what to do; null for a whole one."""


class GlossaryChange(BaseModel):
    """What a change has done."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """Code of the language, or id of the job."""
    added: int = 0
    """Terms that are new."""
    changed: int = 0
    """Terms that were there and have more ways to sound now."""
    removed: int = 0
    terms: int
    """How many there are now."""


@dataclass(frozen=True)
class GlossaryText:
    """The content of a file, with its hash."""

    text: str
    sha256: str


class GlossaryFiles:
    """The glossaries beside the jobs that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._location = jobs_location(settings)

    def listed(self) -> list[StoredGlossary]:
        """All glossaries, by name, also damaged ones. Raises StoreError."""
        return [it for it in map(self._listed, self.names()) if it.terms or it.damaged]

    def names(self) -> list[str]:
        """The languages and jobs that have a glossary, sorted. Raises StoreError."""
        if isinstance(self._location, Folder):
            files = [it.name for it in (self._location.path / FOLDER).glob("*.txt")]
        else:
            files = [it.rpartition("/")[2] for it in self._location.names(FOLDER)]
        names = [it.removesuffix(".txt") for it in files if it.endswith(".txt")]
        return sorted(filter(_is_owner, names))

    def read(self, name: str) -> Glossary:
        """The glossary of a language or job; empty without one.

        Raises UsageError for a name that is neither, StageError if the file is damaged.
        """
        name = owner_name(name)
        found = self.content(name)
        if found is None:
            return Glossary()
        try:
            return read_glossary(found.text)
        except GlossaryError as error:
            raise StageError(f"{self._shown(name)} is damaged: {error}; {_mend(name)}") from None

    def _listed(self, name: str) -> StoredGlossary:
        try:
            return StoredGlossary(name=name, of=_kind(name), terms=len(self.read(name).terms))
        except StageError as error:
            why = str(error)
        except OSError as error:
            fault = f"cannot be read ({error.strerror}); allow it, or move it away"
            why = f"{self._shown(name)} {fault}"
        return StoredGlossary(name=name, of=_kind(name), terms=0, damaged=why)

    def content(self, name: str) -> GlossaryText | None:
        """The file of a code or id as it is; None without one. Raises StageError, StoreError."""
        # Its size comes first, because it may be larger than the memory.
        size = self._size(name)
        data = self._location.read(_file(name)) if size <= MOST_BYTES else b""
        if data is None:
            return None
        if max(size, len(data)) > MOST_BYTES:
            raise StageError(f"{self._shown(name)} has over {MOST_BYTES >> 20} MB; {_mend(name)}")
        try:
            return GlossaryText(data.decode("utf-8"), hashlib.sha256(data).hexdigest())
        except UnicodeDecodeError:
            raise StageError(f"{self._shown(name)} is not UTF-8; {_mend(name)}") from None

    def version(self, name: str) -> str | None:
        """A text that differs after each change of a code's or id's file; None without a file."""
        if isinstance(self._location, Folder):
            try:
                found = (self._location.path / _file(name)).stat()
            except FileNotFoundError:
                return None
            return f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}"
        info = self._location.info(_file(name))
        if info is None:
            return None
        marks = [str(info[key]) for key in VERSION_FIELDS if info.get(key)]
        if marks:
            return "-".join([str(info.get("size")), *marks])
        # The store does not tell, so the content has to.
        data = self._location.read(_file(name))
        return None if data is None else hashlib.sha256(data).hexdigest()

    def add(self, name: str, more: Glossary) -> GlossaryChange:
        """Add terms to those of a language or job. A term that is there gets the new sounds, too.

        Raises UsageError, JobNotFoundError for a job that does not exist, and GlossaryError if
        there would be too many terms; then nothing is changed.
        """
        name = self._existing(name)
        with self._locked(name):
            before = self.read(name)
            try:
                after = merge_glossaries(before, more)
            except GlossaryError as error:
                raise GlossaryError(f"{name}: would have {error}; nothing was added") from None
            known = {it.text: it for it in before.terms}
            added = len(after.terms) - len(known)
            changed = sum(it.text in known and known[it.text] != it for it in after.terms)
            if added or changed:
                self._write(name, after)
            return GlossaryChange(name=name, added=added, changed=changed, terms=len(after.terms))

    def remove(self, name: str, terms: Sequence[str]) -> GlossaryChange:
        """Remove some terms. Raises UsageError if one of them is missing; then none is removed."""
        name = owner_name(name)
        with self._locked(name):
            before = {it.text: it for it in self.read(name).terms}
            wanted = {_as_stored(it) for it in terms}
            missing = sorted(wanted - before.keys())
            if missing:
                said = ", ".join(map(repr, missing[:NAMED]))
                more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
                raise UsageError(
                    f"{name}: {said}{more} is not in the glossary, and nothing was removed; "
                    f"`lorajob glossary list {name}` lists the terms"
                )
            kept = tuple(it for text, it in before.items() if text not in wanted)
            if kept:
                self._write(name, Glossary(terms=kept))
            else:
                self._drop(name)
            return GlossaryChange(name=name, removed=len(wanted), terms=len(kept))

    def remove_all(self, name: str) -> GlossaryChange:
        """Remove the whole glossary of a language or job, also a damaged one.

        Raises UsageError without one.
        """
        name = owner_name(name)
        with self._locked(name):
            try:
                count = len(self.read(name).terms)
            except StageError:
                count = 0
            if self.version(name) is None:
                raise UsageError(f"{name}: has no glossary")
            self._drop(name)
            return GlossaryChange(name=name, removed=count, terms=0)

    def forget_job(self, job_id: str) -> None:
        """Remove the glossary of a job that is deleted, if it has one. Raises StoreError."""
        if self.version(job_id) is not None:
            self._drop(job_id)

    def _existing(self, name: str) -> str:
        """The code of a language or id of a job. Raises JobNotFoundError for an unknown job."""
        found = owner_name(name)
        if _kind(found) == "job" and find_job(found, self._settings).read_record() is None:
            raise JobNotFoundError(f"LANG_OR_JOB: {found!r} has no files in LORAJOB_ARTIFACTS")
        return found

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Allow one change of a glossary at a time on this machine."""
        with locked(self._settings.workplace / LOCKS / f"glossary-{name}", fcntl.LOCK_EX):
            yield

    def _write(self, name: str, glossary: Glossary) -> None:
        data = glossary.text().encode()
        if len(data) > MOST_BYTES:
            raise GlossaryError(
                f"{name}: its glossary would have over {MOST_BYTES >> 20} MB; nothing was changed"
            )
        if isinstance(self._location, Folder):
            Folder(self._location.path / FOLDER).write(f"{name}.txt", data)
        else:
            self._location.write(_file(name), data)

    def _size(self, name: str) -> int:
        """The bytes of a file; 0 without one, and if the store does not tell."""
        if isinstance(self._location, Folder):
            try:
                return (self._location.path / _file(name)).stat().st_size
            except FileNotFoundError:
                return 0
        info = self._location.info(_file(name))
        size = None if info is None else info.get("size")
        return size if isinstance(size, int) else 0

    def _drop(self, name: str) -> None:
        if isinstance(self._location, Folder):
            (self._location.path / _file(name)).unlink(missing_ok=True)
        else:
            self._location.remove(_file(name))

    def _shown(self, name: str) -> str:
        return f"{_file(name)} in LORAJOB_ARTIFACTS"


def owner_name(name: str) -> str:
    """The code of a language by its code or name, or a job's id. Raises UsageError for neither."""
    try:
        return find_language(name).code
    except UsageError:
        pass
    if JOB_ID.fullmatch(name) and "-" in name:
        return name
    raise UsageError(
        f"LANG_OR_JOB: {name!r} is neither a language nor a job; `lorajob languages` lists the "
        "languages, and ids of jobs look like hi-1a2b3c4d"
    )


def _is_owner(name: str) -> bool:
    """Whether a glossary can have this name. A file in the folder may have any other."""
    try:
        return owner_name(name) == name
    except UsageError:
        return False


def _as_stored(term: str) -> str:
    """A term in the form in which a glossary keeps it."""
    try:
        found = terms_of([term]).terms
    except GlossaryError:
        return term
    return found[0].text if found else term


def _kind(name: str) -> Literal["language", "job"]:
    try:
        find_language(name)
    except UsageError:
        return "job"
    return "language"


def _file(name: str) -> str:
    return f"{FOLDER}/{name}.txt"


def _mend(name: str) -> str:
    return f"mend it, or remove it by `lorajob glossary remove {name} --all`"
