"""Opens what commands need: settings, the jobs of the service, one job by its id."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from lorajob.errors import (
    JobNotFoundError,
    LorajobError,
    RecordError,
    ServiceError,
    UsageError,
)
from lorajob.job.jobdir import JOB_ID, JobDir

if TYPE_CHECKING:
    from lorajob.client.service import Client
    from lorajob.tasks.jobs import Jobs
    from lorajob.worker.artifacts.job_files import JobFiles
    from lorajob.worker.records.record import JobRecord
    from lorajob.worker.settings import Settings


def load_settings() -> "Settings":
    """Settings from LORAJOB_* variables. Raises UsageError, which names the wrong variable."""
    from lorajob.client.requests import load_settings as load

    return load()


def open_jobs() -> "Jobs":
    """The jobs in this user's Redis. Raises ServiceError if no Redis is known."""
    from lorajob.tasks.jobs import Jobs

    return Jobs(load_settings())


def open_client() -> "Client":
    """The Python interface to the same jobs."""
    from lorajob.client.service import Client

    return Client(open_jobs())


def is_batch(name: str) -> bool:
    """Whether an id is that of a batch. No language has the code `batch`."""
    return name.startswith("batch-")


COMPLETED_JOBS = 50  # newest jobs that the shell completes


class JobName(click.ParamType[str]):
    """A job or batch, by its id, the beginning of its id, its name or `@last`; gives its id."""

    name = "job"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if load_settings().url is not None:
            return value  # the server finds it

        from lorajob.tasks.naming import find_id

        job = find_id(open_jobs(), value)
        # A malformed id must never become a path.
        if not JOB_ID.fullmatch(job):
            raise UsageError(f"JOB: {job!r} is not a job's id; ids look like hi-1a2b3c4d")
        return job

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Ids and names of the newest jobs. Without a service there are none."""
        from redis.exceptions import RedisError

        try:
            newest = open_jobs().newest(COMPLETED_JOBS)
        # A shell has no place for a message here.
        except (LorajobError, RedisError):
            return []
        found = {it: f"{job.language} {job.state}" for job in newest for it in (job.id, job.name)}
        items = {"@last": "the newest job"} | found
        return [
            CompletionItem(name, help=text)
            for name, text in items.items()
            if name and name.startswith(incomplete)
        ]


JOB = JobName()


@contextmanager
def job_folder(job: str, *stages: str) -> Iterator[JobDir]:
    """The folder of a job on this machine.

    If jobs are in a store, the files of `stages` are fetched into the folder and stay there while
    the block runs. `preprocess/test` stands for files whose names start with `test`. Raises
    JobNotFoundError if there is no such job.
    """
    with job_files(job).local(lambda: load_record(job), *stages) as here:
        yield here


def job_files(job: str) -> "JobFiles":
    """The files of a job, in the folder or store that the settings name."""
    from lorajob.worker.artifacts.lookup import find_job

    return find_job(job, load_settings())


def load_record(job: str) -> "JobRecord":
    """The record of a job from Redis.

    If Redis is unavailable or has lost the record, it is read from job.json and a note is printed.
    If there is no job.json either, raises ServiceError or JobNotFoundError.
    """
    from lorajob.worker.connect import connect, service_errors
    from lorajob.worker.records.records import Records

    settings = load_settings()
    try:
        with service_errors(settings):
            return Records(connect(settings)).load(job)
    except (ServiceError, JobNotFoundError) as error:
        record = _from_file(settings, job)
        if record is None:
            raise
        click.echo(f"lorajob: {error}; its job.json is shown instead", err=True)
        return record


def _from_file(settings: "Settings", job: str) -> "JobRecord | None":
    from lorajob.storage.store import StoreError
    from lorajob.worker.artifacts.lookup import find_job

    try:
        return find_job(job, settings).read_record()
    except (OSError, RecordError, StoreError):
        return None
