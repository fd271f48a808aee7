"""The jobs of one service: `connect()` finds it, `submit` queues a job, `job` names one."""

from collections.abc import Iterable
from typing import Literal

from pydantic import SecretStr

from lorajob.client.job import Job
from lorajob.client.requests import PathOrUrl, load_settings, make_spec
from lorajob.spec import JobSpec
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import service_errors


class Client:
    """The jobs of one service."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def submit(
        self,
        language: str,
        corpus: PathOrUrl | None = None,
        base_model: PathOrUrl | None = None,
        *,
        preset: str = "default",
        sets: Iterable[str] = (),
        priority: Literal["high", "normal", "low"] = "normal",
        **settings: object,
    ) -> Job:
        """Queue a job and return it.

        `corpus` is a path or url as for `lorajob submit --corpus`; without it, the language's is
        looked for in LORAJOB_CORPORA. `settings` are those of docs/settings.md, such as
        `train={"epochs": 2}`; `sets` are lines such as `"train.epochs=2"`, which override them.

        Raises UsageError or CorpusError for a wrong setting or corpus, ServiceError without Redis.
        """
        own = self._jobs.settings
        spec = make_spec(own, language, corpus, base_model, preset, sets, settings)
        return self.submit_spec(spec, priority)

    def submit_spec(
        self, spec: JobSpec, priority: Literal["high", "normal", "low"] = "normal"
    ) -> Job:
        """Queue a job with these settings and return it."""
        return Job(self._jobs, self._jobs.submit(spec, priority))

    def job(self, job_id: str) -> Job:
        """The job with this id. Raises JobNotFoundError."""
        found = Job(self._jobs, job_id)
        return found if found.record.id == job_id else Job(self._jobs, found.record.id)

    def jobs(self, limit: int = 20) -> list[Job]:
        """The newest jobs, the newest first."""
        return [Job(self._jobs, record.id) for record in self._jobs.newest(limit)]


def connect(redis_url: str | None = None, artifacts: PathOrUrl | None = None) -> Client:
    """The service of `redis_url`, of LORAJOB_REDIS_URL, or the one that `lorajob up` started here.

    `artifacts` is the folder or url of the jobs' files, in place of LORAJOB_ARTIFACTS. Raises
    ServiceError if there is no service.
    """
    secret = None if redis_url is None else SecretStr(redis_url)
    settings = load_settings(redis_url=secret, artifacts=artifacts)
    jobs = Jobs(settings)
    with service_errors(settings):
        jobs.redis.ping()
    return Client(jobs)


def submit(
    language: str,
    corpus: PathOrUrl | None = None,
    base_model: PathOrUrl | None = None,
    *,
    preset: str = "default",
    sets: Iterable[str] = (),
    priority: Literal["high", "normal", "low"] = "normal",
    **settings: object,
) -> Job:
    """Queue a job in the service that `connect()` finds, and return it. See `Client.submit`."""
    return connect().submit(
        language,
        corpus,
        base_model,
        preset=preset,
        sets=sets,
        priority=priority,
        **settings,
    )
