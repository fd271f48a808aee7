"""The jobs of one service: `submit` queues a job, `job` names one."""

from collections.abc import Iterable, Mapping
from typing import Literal

from lorajob.client.job import Job
from lorajob.client.requests import PathOrUrl, make_spec
from lorajob.errors import ServiceError
from lorajob.spec import JobSpec
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.naming import find_id, name_start, parse_naming
from lorajob.worker.queues import Priority
from lorajob.worker.records.names import UNNAMED, Naming


class Client:
    """The jobs of one service."""

    def __init__(self, jobs: Jobs | None) -> None:
        """`jobs` is None for a service that is reached in another way (remote.py)."""
        self._found = jobs

    @property
    def _jobs(self) -> Jobs:
        if self._found is None:
            raise ServiceError("this works only beside the service, not over a url")
        return self._found

    def submit(
        self,
        language: str,
        corpus: PathOrUrl | None = None,
        base_model: PathOrUrl | None = None,
        *,
        preset: str = "default",
        sets: Iterable[str] = (),
        priority: Literal["high", "normal", "low"] = "normal",
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        **settings: object,
    ) -> Job:
        """Queue a job and return it.

        `corpus` is a path or url as for `lorajob submit --corpus`; without it, the language's is
        looked for in LORAJOB_CORPORA. `settings` are those of docs/settings.md, such as
        `train={"epochs": 2}`; `sets` are lines such as `"train.epochs=2"`, which override them.
        `job` finds the job by its `name`, too.

        Raises UsageError or CorpusError for a wrong setting or corpus, ServiceError without Redis.
        """
        own = self._jobs.settings
        spec = make_spec(own, language, corpus, base_model, preset, sets, settings)
        naming = parse_naming(name, [f"{key}={value}" for key, value in (tags or {}).items()])
        return self.submit_spec(spec, priority, naming)

    def submit_spec(
        self, spec: JobSpec, priority: Priority = "normal", naming: Naming = UNNAMED
    ) -> Job:
        """Queue a job with these settings and return it. Raises as `submit`."""
        spec = name_start(self._jobs, spec)
        return Job(self._jobs, self._jobs.submit(spec, priority, naming))

    def twin(self, job: Job, spec: JobSpec) -> Job | None:
        """An earlier job with the settings of `job`, submitted at most a day before; else None."""
        found = self._jobs.twin(job.id, name_start(self._jobs, spec))
        return None if found is None else Job(self._jobs, found.id)

    def job(self, job: str) -> Job:
        """The job with this id, beginning of an id, or name; `@last` is this user's newest one.

        Raises JobNotFoundError, and UsageError if several jobs fit.
        """
        found = Job(self._jobs, find_id(self._jobs, job))
        self._jobs.load(found.id)
        return found

    def jobs(self, limit: int = 20) -> list[Job]:
        """The newest jobs, the newest first."""
        return [Job(self._jobs, record.id) for record in self._jobs.newest(limit)]
