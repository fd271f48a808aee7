"""/api/board and /api/models: the best models, promote, roll back."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from lorajob.client.models import PromotedModel, RolledBack
from lorajob.reporting.board import BoardRow
from lorajob.server.web.api_jobs import JobId
from lorajob.server.web.state import Service, User, UserJobs
from lorajob.tasks.board import read_board
from lorajob.tasks.listing import parse_filter
from lorajob.tasks.promotions import Promotions

router = APIRouter(tags=["models"])


class RatedModel(BoardRow):
    """The best delivered model of a language."""

    fewer_errors: float | None = Field(description="Than its base model, in percent of its errors.")


@router.get("/board")
def best_models(
    jobs: UserJobs,
    lang: Annotated[str | None, Query(description="Only these languages: hi,mr")] = None,
) -> list[RatedModel]:
    """Each language with its best delivered model."""
    rows = read_board(jobs, parse_filter(lang, (), (), None).languages)
    return [RatedModel(**row.model_dump(), fewer_errors=row.fewer) for row in rows]


@router.get("/models")
def promoted_models(jobs: UserJobs) -> list[PromotedModel]:
    """The promoted model of each language."""
    promotions = Promotions(jobs.settings)
    found = [(code, promotions.current(code)) for code in promotions.languages()]
    return [PromotedModel(language=code, **it.model_dump()) for code, it in found if it is not None]


@router.post("/jobs/{job}/promote")
def promote_job(
    job: JobId,
    jobs: UserJobs,
    who: User,
    service: Service,
    force: Annotated[bool, Query(description="Even if its gate failed")] = False,
) -> PromotedModel:
    """Use the model of a job for its language in `lorajob serve`."""
    language, promotion = Promotions(jobs.settings).promote(job, force)
    service.audit.write(who, "promote", job, language=language, forced=promotion.forced)
    return PromotedModel(language=language, **promotion.model_dump())


@router.post("/models/{language}/rollback")
def rollback_language(
    language: Annotated[str, Path(max_length=100)], jobs: UserJobs, who: User, service: Service
) -> RolledBack:
    """Use the previously promoted model of a language again."""
    code, old, new = Promotions(jobs.settings).rollback(language)
    service.audit.write(who, "rollback", new.job, language=code, instead_of=old.job)
    return RolledBack(language=code, job=new.job, instead_of=old.job)
