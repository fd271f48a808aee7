"""A look at a corpus before a job is sent, and what the job will need."""

import time
from dataclasses import dataclass

from lorajob.checking.glance import check_tables
from lorajob.checking.model import CheckReport
from lorajob.checking.run import Plan, check_clips
from lorajob.checking.table import open_table
from lorajob.checking.tokens import token_counter
from lorajob.corpora.selection import open_sources
from lorajob.errors import CorpusError, UsageError
from lorajob.gpu_memory import job_gb
from lorajob.languages import Language, find_language
from lorajob.spec import JobSpec
from lorajob.storage.urls import local_path, public
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import service_errors
from lorajob.worker.queues import memory_class
from lorajob.worker.records.record import JobRecord

LOOK_SECONDS = 20.0  # most time for the clips; the job itself checks all
SAMPLES = 5  # texts that are shown
RECENT = 200  # jobs among which one with the same base model is looked for


@dataclass(frozen=True)
class Look:
    """What a corpus holds, and what the job will need."""

    language: Language
    corpus: str
    clips: dict[str, int]  # split -> clips, as the tables list them
    texts: list[str]
    report: CheckReport | None  # None: not all clips were read in time
    hours: float  # of the training clips; 0: unknown
    memory_gb: float  # of a GPU; 0: unknown
    card_gb: int | None  # the class of cards that the job waits for; None: any
    seconds: float | None  # forecast of the training; None without a job to forecast from
    like: str | None  # the job that the forecast is from


class _TimeUp(Exception):
    """The clips take too long."""


def look_at(jobs: Jobs, spec: JobSpec) -> Look:
    """Look at a corpus. Raises UsageError and CorpusError as submitting the job would."""
    places = [local_path(place) for place in spec.places]
    needed = job_gb(spec)
    try:
        card = memory_class(needed)
    except ValueError as error:
        raise UsageError(f"train: no card is large enough: {error}") from None
    language = find_language(spec.language)
    if any(place is None for place in places):
        raise CorpusError(
            f"corpus: {public(spec.corpus)} is behind a url, which only the job itself downloads; "
            "submit it as it is"
        )
    here = [place for place in places if place is not None]
    corpus = open_sources(spec, here, language.code)
    check_tables([corpus], spec)
    deadline = time.monotonic() + LOOK_SECONDS

    def tick(done: int, total: int) -> None:
        if time.monotonic() > deadline:
            raise _TimeUp

    report = None
    plan = Plan(spec, corpus, token_counter(spec.base_model, language), quick=True)
    try:
        with open_table() as table:
            report = check_clips(plan, table, tick)
    except _TimeUp:
        pass
    step = max(1, len(corpus.entries) // SAMPLES)
    hours = _train_hours(spec, report)
    like = _alike(jobs, spec) if hours else None
    return Look(
        language=language,
        corpus=spec.corpus,
        clips=corpus.splits,
        texts=[it.text for it in corpus.entries[::step] if it.text][:SAMPLES],
        report=report,
        hours=hours,
        memory_gb=needed,
        card_gb=card,
        seconds=None if like is None else _pace(like) * hours * spec.train.epochs,
        like=None if like is None else like.id,
    )


def _train_hours(spec: JobSpec, report: CheckReport | None) -> float:
    if report is None:
        return 0.0
    found = [report.splits[it].hours for it in spec.preprocess.train_splits if it in report.splits]
    return sum(found)


def _alike(jobs: Jobs, spec: JobSpec) -> JobRecord | None:
    """The newest job with this base model whose training has finished."""
    with service_errors(jobs.settings):
        recent = jobs.records.newest(RECENT)
    same = [it for it in recent if it.base_model == spec.base_model and _pace(it)]
    return same[0] if same else None


def _pace(record: JobRecord) -> float:
    """Seconds of training for an hour of sound and an epoch; 0 if they are unknown."""
    trained, prepared = (record.stages[it].result for it in ("train", "preprocess"))
    if trained is None or prepared is None:
        return 0.0
    seconds, epochs = (_number(trained.model_extra, it) for it in ("seconds", "epochs"))
    hours = _number(prepared.model_extra, "train_hours")
    return seconds / (hours * epochs) if hours and epochs else 0.0


def _number(values: dict[str, object] | None, name: str) -> float:
    found = (values or {}).get(name)
    return float(found) if isinstance(found, int | float) else 0.0
