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
from lorajob.tasks.words import ended_seconds, language_of, state_of_work
from lorajob.worker.connect import service_errors
from lorajob.worker.records import orders
from lorajob.worker.records.pages import Place, ids_beyond
from lorajob.worker.records.record import JobRecord

Sort = Literal["newest", "oldest", "wer", "before", "cost", "name", "language", "state"]
# Those that Redis keeps sorted; `work` is the order of `state_of_work`. `after` and `before` are
# error rates, each by the metric of its job's language.
ORDERS = ("after", "before", "cost", "name", "language", "state", "work")
MOST_READ = 2000  # records for one page
MOST_SECONDS = 1e9  # of the attempts of one job; the job with the most comes first
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

    def may_have(self, job_id: str) -> bool:
        """Whether it may show a job of this id, which begins with the job's language."""
        return not self.languages or _code(job_id.rpartition("-")[0]) in self.languages

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

    Records are read in that order, and no more than are needed.
    """
    with service_errors(jobs.settings):
        if sort == "newest":
            found = _records(jobs, wanted)
        else:
            found = _sorted(jobs, wanted, sort, state is state_of_work)
        return list(islice((it for it in found if wanted.has(it, state(it))), limit))


@dataclass(frozen=True)
class JobPage:
    """Some jobs of a list, and where its next page begins; None at the end."""

    records: list[JobRecord]
    next: str | None


def page_jobs(
    jobs: Jobs, wanted: JobFilter, limit: int, sort: Sort = "newest", after: str | None = None
) -> JobPage:
    """At most `limit` jobs of the page that begins at `after`, the `next` of the page before.

    At most MOST_READ records are read: with a filter a page may have fewer jobs than `limit`, or
    none, and still a next one. Raises UsageError for a malformed `after`.
    """
    by_time = sort in ("newest", "oldest")
    read = _by_time(jobs, wanted, sort == "oldest") if by_time else _by_order(jobs, sort)
    place = after if after is None or by_time else _checked_text(after)
    records: list[JobRecord] = []
    count, last = 0, place
    with service_errors(jobs.settings):
        while count < MOST_READ:
            size = min(MOST_READ - count, limit + 1 if wanted.everything else 500)
            places = read(place, size)
            for record in jobs.records.load_many(list(places)):
                if not wanted.has(record, record.state):
                    continue
                if len(records) == limit:
                    return JobPage(records, last)
                records.append(record)
                last = places[record.id]
            if len(places) < size:
                return JobPage(records, None)
            *_, place = places.values()
            count += size
    return JobPage(records, place)


# A place, count -> at most so many jobs behind it, and their places.
Read = Callable[[str | None, int], dict[str, str]]


def _by_time(jobs: Jobs, wanted: JobFilter, oldest: bool) -> Read:
    def read(after: str | None, count: int) -> dict[str, str]:
        place = None if after is None else _place(after)
        rows = ids_beyond(jobs.redis, place, count, wanted.since, oldest)
        return {job_id: f"{at!r}:{job_id}" for at, job_id in rows}

    return read


def _by_order(jobs: Jobs, sort: str) -> Read:
    order = "after" if sort == "wer" else sort
    with service_errors(jobs.settings):
        orders.refresh(jobs.redis, ORDERS, jobs.records.load_many, _keys_of)

    def read(after: str | None, count: int) -> dict[str, str]:
        texts = orders.texts_beyond(jobs.redis, order, after, count)
        return {orders.id_of(text): text for text in texts}

    return read


def _checked_text(after: str) -> str:
    if after.count("!") >= 2 and JOB_ID.fullmatch(orders.id_of(after)):
        return after
    raise UsageError(f"after: {after!r} is not the `next` of a page")


def _place(after: str) -> Place:
    at, colon, job_id = after.partition(":")
    try:
        found = float(at)
        if colon and JOB_ID.fullmatch(job_id) and isfinite(found):
            return found, job_id
    except ValueError:
        pass
    raise UsageError(f"after: {after!r} is not the `next` of a page")


def _records(jobs: Jobs, wanted: JobFilter) -> Iterator[JobRecord]:
    """All records since the wanted time, newest first, some at a time."""
    start, size = 0, 50
    while ids := jobs.records.ids_from(start, size, wanted.since):
        start += len(ids)
        size = 500
        yield from jobs.records.load_many([it for it in ids if wanted.may_have(it)])


def _sorted(jobs: Jobs, wanted: JobFilter, sort: Sort, by_work: bool) -> Iterator[JobRecord]:
    """All records of the wanted languages, in an order, some at a time."""
    oldest, order = sort == "oldest", "work" if by_work and sort == "state" else sort
    read = _by_time(jobs, wanted, oldest) if oldest else _by_order(jobs, order)
    place, size = None, 50
    while places := read(place, size):
        size = 500
        *_, place = places.values()
        yield from jobs.records.load_many([it for it in places if wanted.may_have(it)])


def _code(language: str) -> str:
    try:
        return find_language(language).code
    except UsageError:  # of a version with more languages
        return language


def _keys_of(record: JobRecord) -> dict[str, str]:
    """The key of a job in each of ORDERS; they are compared as bytes."""
    scores, metric = record.scores, language_of(record.language).primary_metric
    after, before = headline(scores), scores.get("base")
    return {
        "after": _number(None if after is None else scores[after].rate(metric)),
        "before": _number(None if before is None else before.rate(metric)),
        "cost": _number(MOST_SECONDS - ended_seconds(record)),
        "name": "1" if record.name is None else f"0{record.name}",
        "language": record.language,
        "state": record.state,
        "work": state_of_work(record),
    }


def _number(value: float | None) -> str:
    """A number of 0 or more as a text of one length. None comes last."""
    return "~" if value is None or not isfinite(value) else f"{max(value, 0.0):017.6f}"
