"""Names and tags that users give to jobs, and how a job is found without its whole id.

`lorajob:name:NAME`, a sorted set that transitions.lua keeps, has the jobs of a name by the time
they were made.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from redis import Redis

from lorajob.languages import is_locale
from lorajob.worker.records import batches
from lorajob.worker.records.records import INDEX, PAGE, record_key

_WHOLE_ID = re.compile(r"([a-z]{2,}(?:-[a-z0-9]+)*)-[0-9a-f]{8}")
LONGEST = 64  # letters of a name, and of a tag's key or value
MOST_TAGS = 16
SCANNED = 1000  # ids that Redis looks at in one call


@dataclass(frozen=True)
class Naming:
    """What a user calls a job: a name that may be shared, and tags."""

    name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


UNNAMED = Naming()


def is_whole_id(text: str) -> bool:
    """Whether it is a whole id of a job or batch, as they are made today: `hi-1a2b3c4d`.

    No name looks like it.
    """
    found = _WHOLE_ID.fullmatch(text)
    return found is not None and (found[1] == "batch" or is_locale(found[1]))


def label_fault(text: str, marks: str = "._+-") -> str:
    """Why a text cannot be a name, or a tag's key or value; "" if it can.

    Letters of all scripts are allowed, digits, and `marks`. So it is safe to print and to type.
    """
    if not text:
        return "is empty"
    if len(text) > LONGEST:
        return f"has {len(text)} letters; at most {LONGEST} are allowed"
    for place, letter in enumerate(text):
        plain = unicodedata.category(letter)[0] in ("LNM" if place else "LN")
        if not plain and not (place and letter in marks):
            where = "" if place or letter not in marks else " at its beginning"
            return f"has {letter!r}{where}; allowed are letters, digits and {' '.join(marks)}"
    return ""


def named(redis: Redis, name: str) -> list[str]:
    """The ids of the jobs of that name, newest first."""
    ids = cast("list[str]", redis.zrevrange(f"lorajob:name:{name}", 0, -1))
    with redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hget(record_key(job_id), "name")
        found = pipe.execute(raise_on_error=False)
    # A job that was removed by an older version is still listed.
    return [job_id for job_id, own in zip(ids, found, strict=True) if own == name]


def beginning(redis: Redis, prefix: str) -> Iterator[str]:
    """The ids of jobs and batches that begin with `prefix`, letters, digits and hyphens."""
    for index in (INDEX, batches.INDEX):
        for name, _ in redis.zscan_iter(index, match=f"{prefix}*", count=SCANNED):
            yield str(name)


def newest_of(redis: Redis, user: str | None) -> str | None:
    """The newest job of a user, or of no stated user; None if there is none."""
    start = 0
    while ids := cast("list[str]", redis.zrevrange(INDEX, start, start + PAGE - 1)):
        with redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(record_key(job_id), "user")
            owners = pipe.execute(raise_on_error=False)
        for job_id, owner in zip(ids, owners, strict=True):
            if user is None or owner is None or owner == user:
                return job_id
        start += PAGE
    return None
