"""The screen of the models: the best of each language, which one is promoted, and its files."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from lorajob.reporting.board import NOTE, BoardRow
from lorajob.server.web.pages_html import screen
from lorajob.server.web.pages_jobs import JobLine, JobsView, read_lines
from lorajob.server.web.state import Service, User, UserJobs
from lorajob.tasks.board import read_board
from lorajob.tasks.promotions import Promotion, Promotions
from lorajob.tasks.words import language_of

MOST_OTHERS = 10  # further models of a language

router = APIRouter(prefix="/models")


@dataclass(frozen=True)
class LanguageModels:
    """The models of one language."""

    code: str
    name: str
    best: BoardRow | None
    promoted: Promotion | None
    previous: Promotion | None  # what a rollback would restore
    others: list[JobLine]


@router.get("")
def show_models(request: Request, jobs: UserJobs) -> Response:
    """The best model of each language."""
    promotions = Promotions(jobs.settings)
    best = {row.language: row for row in read_board(jobs)}
    promoted = {code: promotions.latest(code) for code in promotions.languages()}
    languages = []
    for code in {**best, **promoted}:
        row, stack = best.get(code), promoted.get(code, ())
        found, _ = read_lines(jobs, JobsView(lang=code, state="succeeded", sort="wer"))
        shown = {row.job} if row else set()
        others = [it for it in found if it.after is not None and it.id not in shown]
        languages.append(
            LanguageModels(
                code=code,
                name=language_of(code).name,
                best=row,
                promoted=stack[-1] if stack else None,
                previous=stack[-2] if len(stack) > 1 else None,
                others=others[:MOST_OTHERS],
            )
        )
    languages.sort(key=lambda it: it.name)
    return screen(request, "models.html", languages=languages, note=NOTE)


@router.post("/promote")
def promote_by_form(
    jobs: UserJobs,
    service: Service,
    who: User,
    job: Annotated[str, Form()],
    force: Annotated[str, Form()] = "",
) -> Response:
    """Promote the model of a job for its language."""
    language, promotion = Promotions(jobs.settings).promote(job, force == "yes")
    service.audit.write(who, "promote", job, language=language, forced=promotion.forced)
    return RedirectResponse(f"/models#{language}", 303)


@router.post("/rollback")
def rollback_by_form(
    jobs: UserJobs, service: Service, who: User, language: Annotated[str, Form()]
) -> Response:
    """Go back to the previous model of a language."""
    code, left, now = Promotions(jobs.settings).rollback(language)
    service.audit.write(who, "rollback", now.job, language=code, left=left.job)
    return RedirectResponse(f"/models#{code}", 303)
