"""/api/glossaries: terms that `lorajob serve` listens for, by language and by job."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from lorajob.book.terms import terms_of
from lorajob.client.glossaries import owner_of
from lorajob.server.web.models import GlossaryEdit, GlossaryTerm, GlossaryTerms
from lorajob.server.web.state import Service, User, UserJobs
from lorajob.tasks.glossaries import GlossaryChange, GlossaryFiles, StoredGlossary

FOLDER = "/api/glossaries/"  # paths that take bodies of up to MOST_BODY_BYTES
MOST_BODY_BYTES = 16 << 20

router = APIRouter(prefix="/glossaries", tags=["glossaries"])


def owner(
    name: Annotated[str, Path(max_length=200, description="A language or a job")], jobs: UserJobs
) -> str:
    """The code of a language or the id of a job, for a route."""
    return owner_of(jobs, name)


Owner = Annotated[str, Depends(owner)]


@router.get("")
def list_glossaries(jobs: UserJobs) -> list[StoredGlossary]:
    """The languages and jobs that have a glossary, and how many terms each has."""
    return GlossaryFiles(jobs.settings).listed()


@router.get("/{name}")
def show_glossary(name: Owner, jobs: UserJobs) -> GlossaryTerms:
    """The terms of a language or job. Without a glossary there are none."""
    kept = GlossaryFiles(jobs.settings)
    terms = [GlossaryTerm(text=it.text, sounds=list(it.sounds)) for it in kept.read(name).terms]
    return GlossaryTerms(name=name, terms=terms)


@router.patch("/{name}")
def edit_glossary(
    name: Owner, edit: GlossaryEdit, jobs: UserJobs, who: User, service: Service
) -> GlossaryChange:
    """Add terms to a glossary, or remove terms. A wrong one refuses the whole request."""
    kept = GlossaryFiles(jobs.settings)
    made = kept.add(name, terms_of(edit.add)) if edit.add else kept.remove(name, edit.remove)
    counts = made.model_dump(include={"added", "changed", "removed"})
    service.audit.write(who, "glossary", glossary=made.name, **counts)
    return made


@router.delete("/{name}")
def remove_glossary(name: Owner, jobs: UserJobs, who: User, service: Service) -> GlossaryChange:
    """Remove all terms of a language or job."""
    made = GlossaryFiles(jobs.settings).remove_all(name)
    service.audit.write(who, "glossary", glossary=made.name, removed=made.removed)
    return made
