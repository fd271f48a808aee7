"""The glossaries of a service: terms that `lorajob serve` listens for, by language and by job."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from lorajob.book.terms import Glossary, Term, terms_of
from lorajob.errors import UsageError
from lorajob.languages import find_language
from lorajob.tasks.glossaries import GlossaryChange, GlossaryFiles, StoredGlossary
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.naming import find_id

if TYPE_CHECKING:
    from lorajob.client.web_api import WebApi

Terms = Glossary | Iterable[str]


class Glossaries(Protocol):
    """The glossaries of one service. `owner` is a language or a job.

    A term that is given as a text may have a tab and how it sounds behind it, as a line of a file.
    """

    def list(self) -> list[StoredGlossary]:
        """All glossaries, by name, also damaged ones."""
        ...

    def get(self, owner: str) -> Glossary:
        """The terms of a language or job; empty without a glossary."""
        ...

    def add(self, owner: str, terms: Terms) -> GlossaryChange:
        """Add terms to those that are there. Raises UsageError for a malformed term."""
        ...

    def remove(self, owner: str, terms: Iterable[str]) -> GlossaryChange:
        """Remove some terms. Raises UsageError if one is missing; then none is removed."""
        ...

    def remove_all(self, owner: str) -> GlossaryChange:
        """Remove the whole glossary of a language or job. Raises UsageError without one."""
        ...


def as_glossary(terms: Terms) -> Glossary:
    """Terms as a glossary. Raises UsageError for a malformed term."""
    if isinstance(terms, str):
        raise UsageError(f"terms: {terms[:40]!r} is one text; give a list of terms")
    return terms if isinstance(terms, Glossary) else terms_of(terms)


class LocalGlossaries:
    """The glossaries of a service whose files this machine reaches."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs, self._stored = jobs, GlossaryFiles(jobs.settings)

    def list(self) -> list[StoredGlossary]:
        """As `Glossaries.list`."""
        return self._stored.listed()

    def get(self, owner: str) -> Glossary:
        """As `Glossaries.get`."""
        return self._stored.read(self._name(owner))

    def add(self, owner: str, terms: Terms) -> GlossaryChange:
        """As `Glossaries.add`."""
        return self._stored.add(self._name(owner), as_glossary(terms))

    def remove(self, owner: str, terms: Iterable[str]) -> GlossaryChange:
        """As `Glossaries.remove`."""
        return self._stored.remove(self._name(owner), tuple(terms))

    def remove_all(self, owner: str) -> GlossaryChange:
        """As `Glossaries.remove_all`."""
        return self._stored.remove_all(self._name(owner))

    def _name(self, owner: str) -> str:
        """The code of a language, or the id of a job by any of its names."""
        return owner_of(self._jobs, owner)


def owner_of(jobs: Jobs, owner: str) -> str:
    """The code of a language, or the id of a job by its id, its beginning, its name or `@last`."""
    try:
        return find_language(owner).code
    except UsageError:
        return find_id(jobs, owner)


class RemoteGlossaries:
    """The glossaries of a service behind the url of its `lorajob web`."""

    def __init__(self, api: "WebApi") -> None:
        self._api = api

    def list(self) -> list[StoredGlossary]:
        """As `Glossaries.list`."""
        return [StoredGlossary.model_validate(it) for it in self._api.get("/glossaries")]

    def get(self, owner: str) -> Glossary:
        """As `Glossaries.get`."""
        found = self._api.get(_path(owner))["terms"]
        return Glossary(tuple(Term(it["text"], tuple(it["sounds"])) for it in found))

    def add(self, owner: str, terms: Terms) -> GlossaryChange:
        """As `Glossaries.add`."""
        return self._change(owner, add=[_line(it) for it in as_glossary(terms).terms])

    def remove(self, owner: str, terms: Iterable[str]) -> GlossaryChange:
        """As `Glossaries.remove`."""
        return self._change(owner, remove=list(terms))

    def remove_all(self, owner: str) -> GlossaryChange:
        """As `Glossaries.remove_all`."""
        return GlossaryChange.model_validate(self._api.send("DELETE", _path(owner)))

    def _change(self, owner: str, **changes: object) -> GlossaryChange:
        return GlossaryChange.model_validate(self._api.send("PATCH", _path(owner), changes))


def _path(owner: str) -> str:
    return f"/glossaries/{quote(owner, safe='@')}"


def _line(term: Term) -> str:
    """A term as `terms_of` reads it: a `#` at its beginning is a part of it."""
    return f"{term.text}\t{'|'.join(term.sounds)}" if term.sounds else term.text
