"""Opens what commands need: settings, the jobs of the service, one job by its id."""

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from lorajob.errors import LorajobError, UsageError
from lorajob.job.jobdir import JOB_ID

if TYPE_CHECKING:
    from lorajob.client.job import Job
    from lorajob.client.service import Client
    from lorajob.tasks.jobs import Jobs
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
    """The Python interface to the same jobs, or to those behind LORAJOB_URL."""
    settings = load_settings()
    if settings.url is not None:
        from lorajob.client.remote import RemoteClient

        key = settings.api_key
        return RemoteClient(settings.url, None if key is None else key.get_secret_value())
    from lorajob.client.service import Client

    return Client(open_jobs())


def job_of(job_id: str) -> "Job":
    """The job with this id in the Python interface. It may be missing."""
    return open_client().job_of(job_id)


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

        job = open_client().find_id(value)
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
