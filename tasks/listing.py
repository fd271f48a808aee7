"""Which jobs a list shows: by language, state, tag and time, in an order."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from math import isfinite
from typing import Literal

from lorajob.errors import UsageError
from lorajob.job.jobdir import JOB_ID
from lorajob.job.results import headline
from lorajob.languages import find_language
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.prune import parse_age
from lorajob.worker.connect import service_errors
from lorajob.worker.records.pages import Place, ids_beyond
from lorajob.worker.records.record import JobRecord

Sort = Literal["newest", "oldest", "wer", "name", "language", "state"]
MOST_READ = 2000  # records for one page
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?")


@dataclass(frozen=True)
class JobFilter:
    """What a list shows. Empty fields leave nothing out. `since` is in seconds since the epoch."""

    languages: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    tags: tuple[tuple[str, str | None], ...] = ()  # key, and its value if it matters
    since: float | None = None
    text: str = ""  # in the id or the name, in any case

    @property
    def everything(self) -> bool:
        return self == JobFilter()

    def has(self, record: JobRecord, state: str) -> bool:
        """Whether it shows a job, which is in `state`."""
        return (
            (not self.languages or _code(record.language) in self.languages)
            and (not self.states or state in self.states)
            and (not self.text or self._says(record))
            and (self.since is None or record.created_at >= self.since)
            and all(
                key in record.tags and value in (None, record.tags[key]) for key, value in self.tags
            )
        )

    def _says(self, record: JobRecord) -> bool:
        wanted = self.text.casefold()
        return any(wanted in text.casefold() for text in (record.id, record.name or ""))


def parse_filter(
    languages: str | None, states: Iterable[str], tags: Sequence[str], since: str | None
) -> JobFilter:
    """A filter of `hi,mr`, states, `key=value` or `key`, and `2d` or `2026-11-01`.

    Raises UsageError.
    """
    codes = frozenset(find_language(it).code for it in (languages or "").split(",") if it.strip())
    wanted = []
    for line in tags:
        key, equals, value = line.partition("=")
        if not key:
            raise UsageError(f"--tag: {line!r} is not of the form KEY or KEY=VALUE")
        wanted.append((key, value if equals else None))
    earliest = None if since is None else _parse_since(since)
    return JobFilter(codes, frozenset(states), tuple(wanted), earliest)


def _parse_since(text: str) -> float:
    if _DATE.fullmatch(text.strip()):
        try:
            return datetime.fromisoformat(text.strip()).timestamp()  # of the machine's time zone
        except ValueError:
            pass
    try:
        return time.time() - parse_age(text)
    except UsageError:
        raise UsageError(
            f"--since: {text!r} is not allowed; such as 12h, 2d, 8w or 2026-11-30"
        ) from None


def list_jobs(
    jobs: Jobs,
    wanted: JobFilter,
    limit: int,
    sort: Sort = "newest",
    state: Callable[[JobRecord], str] = lambda record: record.state,
) -> list[JobRecord]:
    """At most `limit` jobs, in the order of `sort`. `state` says which state a job shows.

    Records are read from the newest on, and no more than are needed.
    """
    with service_errors(jobs.settings):
        fitting = (it for it in _records(jobs, wanted) if wanted.has(it, state(it)))
        if sort == "newest":
            return list(islice(fitting, limit))
        return sorted(fitting, key=_ORDERS[sort](state))[:limit]


@dataclass(frozen=True)
class JobPage:
    """Some jobs of a list, and where its next page begins; None at the end."""

    records: list[JobRecord]
    next: str | None
    truncated: bool = False
    """There are older jobs, which were not sorted with these."""


def page_jobs(
    jobs: Jobs, wanted: JobFilter, limit: int, sort: Sort = "newest", after: str | None = None
) -> JobPage:
    """At most `limit` jobs of the page that begins at `after`, the `next` of the page before.

    By time, at most MOST_READ records are read: with a filter a page may have fewer jobs than
    `limit`, or none, and still a next one. In another order only the newest MOST_READ jobs are
    sorted. Raises UsageError for a malformed `after`.
    """
    if sort not in ("newest", "oldest"):
        start = _offset(after)
        with service_errors(jobs.settings):
            read = list(islice(_records(jobs, wanted), MOST_READ + 1))
            found = [it for it in read[:MOST_READ] if wanted.has(it, it.state)]
        ordered = sorted(found, key=_ORDERS[sort](lambda record: record.state))
        end = start + limit
        following = str(end) if end < len(ordered) else None
        return JobPage(ordered[start:end], following, len(read) > MOST_READ)
    place = None if after is None else _place(after)
    records: list[JobRecord] = []
    count, last = 0, place
    with service_errors(jobs.settings):
        while count < MOST_READ:
            size = min(MOST_READ - count, limit + 1 if wanted.everything else 500)
            rows = ids_beyond(jobs.redis, place, size, wanted.since, sort == "oldest")
            places = {job_id: (at, job_id) for at, job_id in rows}
            for record in jobs.records.load_many(list(places)):
                if not wanted.has(record, record.state):
                    continue
                if len(records) == limit:
                    return JobPage(records, _after(last))
                records.append(record)
                last = places[record.id]
            if len(rows) < size:
                return JobPage(records, None)
            place = rows[-1]
            count += size
    return JobPage(records, _after(place))


def _after(place: Place | None) -> str | None:
    return None if place is None else f"{place[0]!r}:{place[1]}"


def _place(after: str) -> Place:
    at, colon, job_id = after.partition(":")
    try:
        found = float(at)
        if colon and JOB_ID.fullmatch(job_id) and isfinite(found):
            return found, job_id
    except ValueError:
        pass
    raise UsageError(f"after: {after!r} is not the `next` of a page")


def _offset(after: str | None) -> int:
    if after is None:
        return 0
    if after.isascii() and after.isdecimal() and len(after) < 7:
        return int(after)
    raise UsageError(f"after: {after!r} is not the `next` of a page")


def _records(jobs: Jobs, wanted: JobFilter) -> Iterator[JobRecord]:
    """All records since the wanted time, newest first, some at a time."""
    start, size = 0, 50
    while ids := jobs.records.ids_from(start, size, wanted.since):
        start += len(ids)
        size = 500
        # The id of a job begins with its language.
        own = [
            it
            for it in ids
            if not wanted.languages or _code(it.rpartition("-")[0]) in wanted.languages
        ]
        yield from jobs.records.load_many(own)


def _code(language: str) -> str:
    try:
        return find_language(language).code
    except UsageError:  # of a version with more languages
        return language


def _rate(record: JobRecord) -> float:
    name = headline(record.scores)
    return float("inf") if name is None else record.scores[name].wer


State = Callable[[JobRecord], str]
_ORDERS: dict[str, Callable[[State], Callable[[JobRecord], tuple[object, ...]]]] = {
    "oldest": lambda state: lambda it: (it.created_at,),
    "wer": lambda state: lambda it: (_rate(it), -it.created_at),
    "name": lambda state: lambda it: (it.name is None, it.name or "", -it.created_at),
    "language": lambda state: lambda it: (it.language, -it.created_at),
    "state": lambda state: lambda it: (state(it), -it.created_at),
}
