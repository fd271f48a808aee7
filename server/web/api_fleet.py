"""/api/fleet, /api/languages, /api/settings, /api/corpora/check and /api/forecast."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter

from lorajob.checking.model import CheckReport
from lorajob.languages import known_languages
from lorajob.server.errors import ApiError
from lorajob.server.web.models import CorpusCheck, ForecastRequest, LanguageView, NeedForecast
from lorajob.server.web.requests import requested_spec
from lorajob.server.web.state import UserJobs
from lorajob.spec import PRESETS, JobSpec
from lorajob.storage.urls import public
from lorajob.tasks.fleet import Fleet, read_fleet

MOST_CHECKS = 2  # at a time; a check reads a whole corpus

router = APIRouter(tags=["service"])
_checks = threading.BoundedSemaphore(MOST_CHECKS)


@router.get("/fleet")
def fleet(jobs: UserJobs) -> Fleet:
    """The workers, what they serve, and what waits for them."""
    return read_fleet(jobs)


@router.get("/languages")
def all_languages() -> list[LanguageView]:
    """The languages that lorajob supports."""
    return [
        LanguageView(
            code=each.code,
            name=each.name,
            scripts=list(each.scripts),
            token=each.token,
            metric="cer" if each.primary_metric == "cer" else "wer",
            stand_in=each.token != each.code,
            note=each.note or None,
        )
        for each in known_languages()
    ]


@router.get("/settings")
def job_settings() -> dict[str, object]:
    """The JSON Schema of a job's settings (`schema`), and the presets (`presets`)."""
    return {"schema": JobSpec.model_json_schema(), "presets": dict(PRESETS)}


@router.post("/corpora/check")
def report_corpus(body: CorpusCheck, jobs: UserJobs) -> CheckReport:
    """Check a corpus before a job trains on it."""
    from lorajob.checking.run import Plan, check_clips
    from lorajob.checking.table import open_table
    from lorajob.checking.tokens import token_counter
    from lorajob.corpora import local_copy
    from lorajob.corpora.selection import open_sources
    from lorajob.languages import find_language

    with _turn():
        spec = requested_spec(jobs.settings, body.spec, sets=body.sets)
        language = find_language(spec.language)
        corpus = open_sources(spec, [local_copy(place) for place in spec.places], language.code)
        plan = Plan(spec, corpus, token_counter(spec.base_model, language), body.quick)
        with open_table() as table:
            report = check_clips(plan, table)
    return report.model_copy(update={"corpus": public(report.corpus)})


@router.post("/forecast")
def forecast_job(body: ForecastRequest, jobs: UserJobs) -> NeedForecast:
    """What a job will need: GPU memory, and time at the pace of an earlier job like it."""
    from lorajob.server.web.pages_look import look_at

    with _turn():
        found = look_at(jobs, requested_spec(jobs.settings, body.spec, body.preset, body.sets))
    report = found.report
    return NeedForecast(
        corpus=public(found.corpus),
        language=found.language.code,
        clips=found.clips,
        train_hours=found.hours or None,
        gpu_memory_gb=found.memory_gb,
        card_gb=found.card_gb,
        train_seconds=found.seconds,
        like=found.like,
        errors=None if report is None else report.errors,
        warnings=None if report is None else report.warnings,
    )


@contextmanager
def _turn() -> Iterator[None]:
    """One of the corpora that are read at a time. Raises ApiError 429."""
    if not _checks.acquire(blocking=False):
        raise ApiError(429, f"{MOST_CHECKS} corpora are checked; try again later", retry_after=10)
    try:
        yield
    finally:
        _checks.release()
