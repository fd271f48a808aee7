"""Finds the best delivered model of each language.

The standings of all jobs are read, a few fields of each. Whole records are read of the best few
jobs of each language.
"""

from dataclasses import dataclass

from lorajob.job.results import Scores, headline, scores_there, verdict_of
from lorajob.languages import Language
from lorajob.reporting.board import BoardRate, BoardRow
from lorajob.storage.urls import public
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.prune import ended_at
from lorajob.tasks.words import language_of
from lorajob.worker.connect import service_errors
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import PAGE

READ = 5  # jobs of each language whose records are read: the first whose model passed its checks


@dataclass
class _Candidates:
    """The jobs of a language that have a delivered model: their number, and the best of them."""

    language: Language
    count: int
    best: list[tuple[float, str]]  # rate in percent, id


def read_board(jobs: Jobs, languages: frozenset[str] = frozenset()) -> list[BoardRow]:
    """A row for each language, or for each of `languages` (codes), by name.

    The lowest rate of the language's metric is the best. A model that failed its checks comes
    behind the others.
    """
    with service_errors(jobs.settings):
        found = _candidates(jobs)
        rows = []
        for code in sorted(found):
            if languages and code not in languages:
                continue
            records = jobs.records.load_many([job_id for _, job_id in found[code].best])
            if records:
                best = min(records, key=lambda it: _gate(it) == "failed")
                rows.append(_row(best, found[code]))
    return sorted(rows, key=lambda row: row.language_name)


def _candidates(jobs: Jobs) -> dict[str, _Candidates]:
    found: dict[str, _Candidates] = {}
    start = 0
    while ids := jobs.records.ids_from(start, PAGE):
        start += len(ids)
        for job_id, at in jobs.records.standings(ids).items():
            name = headline(at.scores)
            if at.state != "succeeded" or name is None:
                continue
            language = language_of(at.language)
            own = found.setdefault(language.code, _Candidates(language, 0, []))
            own.count += 1
            own.best = sorted([*own.best, (_rate(at.scores[name], language), job_id)])[:READ]
    return found


def _rate(scores: Scores, language: Language) -> float:
    return scores.cer if language.primary_metric == "cer" else scores.wer


def _gate(record: JobRecord) -> str | None:
    checked = verdict_of({name: stage.result for name, stage in record.stages.items()})
    return None if checked is None else checked.gate


def _row(record: JobRecord, own: _Candidates) -> BoardRow:
    language, scores = own.language, record.scores
    after = scores[headline(scores) or "tuned"]
    before = scores.get("base")
    there = scores_there(record.stages["evaluate"].result)
    metric = language.primary_metric
    interval = after.cer_interval if metric == "cer" else after.wer_interval
    return BoardRow(
        language=language.code,
        language_name=language.name,
        metric=metric,
        before=None if before is None else _rate(before, language),
        before_clips=None if before is None else before.clips,
        after_on_before_clips=None if there is None else _rate(there, language),
        after=BoardRate(rate=_rate(after, language), interval=interval),
        wer=after.wer,
        cer=after.cer,
        clips=after.clips,
        job=record.id,
        name=record.name,
        base_model=public(record.base_model),
        corpus=public(record.corpus),
        gate=_gate(record),
        finished_at=ended_at(record),
        jobs=own.count,
    )
