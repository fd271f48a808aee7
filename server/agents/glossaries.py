"""Tools on glossaries: terms that `lorajob serve` listens for."""

from typing import Annotated
from urllib.parse import quote

from mcp.server.mcpserver import Context
from pydantic import Field

from lorajob.book.terms import LONGEST_TERM
from lorajob.server.agents.arguments import MOST_LETTERS, LanguageName
from lorajob.server.agents.results import GlossaryAnswer, GlossaryTotals
from lorajob.server.agents.server import rest_of
from lorajob.server.web.models import GlossaryTerms
from lorajob.tasks.glossaries import GlossaryChange, StoredGlossary

MOST_SHOWN = 100  # terms of one page
MOST_ADDED = 1000  # terms of one call

TermText = Annotated[str, Field(min_length=1, max_length=4 * LONGEST_TERM)]


async def glossary_tool(
    ctx: Context,
    language: LanguageName | None = None,
    containing: Annotated[
        str | None, Field(max_length=MOST_LETTERS, description="Only terms with this text")
    ] = None,
    offset: Annotated[int, Field(ge=0)] = 0,
) -> GlossaryAnswer:
    """The names and terms that `lorajob serve` listens for: how many each language and job has, or
    the terms of one language. Both come in pages.
    """
    rest = rest_of(ctx)
    if language is None:
        rows = [StoredGlossary.model_validate(it) for it in await rest.get("/glossaries")]
        totals = [GlossaryTotals(name=it.name, terms=it.terms, damaged=it.damaged) for it in rows]
        return GlossaryAnswer(
            glossaries=totals[offset : offset + MOST_SHOWN],
            next_offset=_next(offset, len(totals)),
            next="name a language to see its terms; add_terms adds some",
        )
    path = f"/glossaries/{quote(language, safe='')}"
    found = GlossaryTerms.model_validate(await rest.get(path))
    wanted = (containing or "").casefold()
    terms = [it.text for it in found.terms if wanted in it.text.casefold()]
    return GlossaryAnswer(
        glossaries=[GlossaryTotals(name=found.name, terms=len(found.terms))],
        terms=terms[offset : offset + MOST_SHOWN],
        next_offset=_next(offset, len(terms)),
        next="add_terms adds some; `lorajob glossary remove` removes some",
    )


def _next(offset: int, total: int) -> int | None:
    """The `offset` of the next page; None at the end."""
    following = offset + MOST_SHOWN
    return following if following < total else None


async def add_terms_tool(
    ctx: Context,
    language: LanguageName,
    terms: Annotated[
        list[TermText],
        Field(
            min_length=1,
            max_length=MOST_ADDED,
            description="Names and terms as they are written, of up to 100 letters each. Behind a "
            "tab may stand how a term sounds.",
        ),
    ],
) -> GlossaryAnswer:
    """Add names and terms to a language's glossary. `lorajob serve` listens for them from the next
    request on, and writes them only where they were said.
    """
    path = f"/glossaries/{quote(language, safe='')}"
    made = GlossaryChange.model_validate(await rest_of(ctx).patch(path, {"add": terms}))
    return GlossaryAnswer(
        glossaries=[GlossaryTotals(name=made.name, terms=made.terms)],
        added=made.added,
        next="`lorajob serve` uses them from its next request on",
    )
