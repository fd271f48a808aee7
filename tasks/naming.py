"""What users call jobs: checks names and tags, and finds a job by what it was called."""

import unicodedata
from collections.abc import Sequence

from lorajob.errors import JobNotFoundError, ServiceError, UsageError
from lorajob.job.jobdir import JOB_ID
from lorajob.spec import JobSpec
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import service_errors
from lorajob.worker.records import names
from lorajob.worker.records.names import MOST_TAGS, Naming, is_whole_id, label_fault

LAST = "@last"
SHOWN = 6  # ids that an error lists
VALUE_MARKS = "._+-/:@=,"


def parse_naming(name: str | None, lines: Sequence[str]) -> Naming:
    """A name and tags such as `kind=baseline`. Raises UsageError.

    Both are NFC, so that a name is found however it is typed.
    """
    tags: dict[str, str] = {}
    for line in lines:
        key, equals, value = unicodedata.normalize("NFC", line).partition("=")
        if not equals:
            raise UsageError(f"--tag: {line!r} is not of the form KEY=VALUE, such as kind=baseline")
        if key in tags:
            raise UsageError(f"--tag: {key} is there twice")
        for part, marks in ((key, "._-"), (value, VALUE_MARKS)):
            if fault := label_fault(part, marks):
                raise UsageError(f"--tag: {line!r}: {part!r} {fault}")
        tags[key] = value
    if len(tags) > MOST_TAGS:
        raise UsageError(f"--tag: {len(tags)} tags; at most {MOST_TAGS} are allowed")
    return Naming(None if name is None else _checked_name(name), tags)


def _checked_name(text: str) -> str:
    name = unicodedata.normalize("NFC", text)
    if fault := label_fault(name):
        raise UsageError(f"--name: {text!r} {fault}")
    if is_whole_id(name) or name.startswith("batch-"):
        raise UsageError(f"--name: {name!r} looks like the id of a job; choose another name")
    return name


def find_id(jobs: Jobs, text: str) -> str:
    """The id of a job or batch that is called by its id, its beginning, its name or `@last`.

    `@last` is the newest job of this user. A whole id is returned at once, and any id if Redis does
    not answer, since job.json may still be read. Raises UsageError if several jobs fit or
    if none does, and JobNotFoundError if `@last` has none.
    """
    if is_whole_id(text):
        return text
    if text == LAST:
        return _newest(jobs)
    name = unicodedata.normalize("NFC", text)
    if label_fault(name):
        raise UsageError(
            f"JOB: {text!r} is not a job's id; ids look like hi-1a2b3c4d. A job's name, {LAST} and "
            "the beginning of an id are allowed, too"
        )
    try:
        with service_errors(jobs.settings):
            found = _fitting(jobs, name)
    except ServiceError:
        if JOB_ID.fullmatch(name):
            return name
        raise
    if len(found) > 1:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UsageError(f"JOB: {text!r} fits {', '.join(found[:SHOWN])}{more}; name one of them")
    if found:
        return found[0]
    if JOB_ID.fullmatch(name):  # it may have files and no record
        return name
    raise UsageError(f"JOB: no job is called {text!r}; `lorajob status` lists the jobs")


def name_start(jobs: Jobs, spec: JobSpec) -> JobSpec:
    """The spec with the id of the job that it starts from, if that is called by its name.

    Raises UsageError and JobNotFoundError as `find_id`.
    """
    if spec.start.job is None:
        return spec
    found = find_id(jobs, spec.start.job)
    return spec.model_copy(update={"start": spec.start.model_copy(update={"job": found})})


def _fitting(jobs: Jobs, name: str) -> list[str]:
    """An id comes before a name, and a name before the beginning of ids."""
    is_id = JOB_ID.fullmatch(name) is not None
    if is_id and jobs.records.known(name):
        return [name]
    if found := names.named(jobs.redis, name):
        return found
    return sorted(set(names.beginning(jobs.redis, name))) if is_id else []


def _newest(jobs: Jobs) -> str:
    with service_errors(jobs.settings):
        found = names.newest_of(jobs.redis, jobs.user)
    if found is None:
        raise JobNotFoundError(f"JOB: {LAST}: you have no job; `lorajob submit` queues one")
    return found
