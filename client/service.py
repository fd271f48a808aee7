"""The jobs of one service: `submit` queues a job, `job` names one."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from lorajob.client.batch import Batch
from lorajob.client.glossaries import Glossaries, LocalGlossaries
from lorajob.client.job import Job
from lorajob.client.models import REPAIR, DeletedJobs, ListedJobs, PromotedModel, RolledBack
from lorajob.client.requests import PathOrUrl, make_spec
from lorajob.client.texts import LocalTexts, TextsByLanguage
from lorajob.errors import ServiceError
from lorajob.job.states import JobState
from lorajob.spec import JobSpec
from lorajob.tasks.batches import Submitted, check_specs, submit_batch
from lorajob.tasks.board import read_board
from lorajob.tasks.jobs import Jobs, waits
from lorajob.tasks.listing import JobFilter, Sort, list_jobs, parse_filter
from lorajob.tasks.naming import find_id, name_start, parse_naming
from lorajob.tasks.promotions import Promotions
from lorajob.tasks.prune import Keep, parse_age, prune_all
from lorajob.tasks.rebuild import Rebuilt, rebuild
from lorajob.tasks.words import state_of_work
from lorajob.worker.heartbeats import mixture
from lorajob.worker.queues import Priority
from lorajob.worker.records.names import UNNAMED, Naming

if TYPE_CHECKING:
    from lorajob.reporting.board import BoardRow
    from lorajob.reporting.comparison import Comparison


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

    def submit_batch(
        self,
        specs: Sequence[JobSpec],
        priority: Priority = "normal",
        naming: Naming = UNNAMED,
        salt: str = "",
    ) -> Submitted:
        """Queue a job for each of these settings as one batch.

        The same batch submitted again is the same one, and queues nothing twice, unless `salt`
        differs. Raises as `submit`, and UsageError if two languages have the same corpus.
        """
        check_specs(specs)
        named = [name_start(self._jobs, spec) for spec in specs]
        return submit_batch(self._jobs, named, priority, salt, naming)

    def find_id(self, job: str) -> str:
        """The id of the job or batch with this id, beginning of an id, or name, or of `@last`.

        The job of a whole id may be missing. Raises UsageError if several fit.
        """
        return find_id(self._jobs, job)

    def job(self, job: str) -> Job:
        """The job with this id, beginning of an id, or name; `@last` is this user's newest one.

        Raises JobNotFoundError, and UsageError if several jobs fit.
        """
        found = self.job_of(find_id(self._jobs, job))
        found.load(lambda _: None)
        return found

    def job_of(self, job_id: str) -> Job:
        """The job with this whole id, without a look whether it exists."""
        return Job(self._jobs, job_id)

    def batch(self, batch_id: str) -> Batch:
        """The batch with this id. Raises JobNotFoundError."""
        found = Batch(self._jobs, batch_id)
        found.read()
        return found

    def jobs(
        self,
        limit: int = 20,
        *,
        lang: str | None = None,
        states: Iterable[JobState] = (),
        tags: Sequence[str] = (),
        since: str | None = None,
        sort: Sort = "newest",
    ) -> list[Job]:
        """The jobs that fit, the newest first or in the order of `sort`, at most `limit`.

        `lang` is such as `hi,mr`, `tags` are KEY or KEY=VALUE, `since` is an age such as 2d or a
        date such as 2026-11-30. `sort="wer"` puts the lowest error rate first, of
        words or characters by the job's language. Raises UsageError.
        """
        wanted = parse_filter(lang, states, tags, since)
        return [self.job_of(record.id) for record in list_jobs(self._jobs, wanted, limit, sort)]

    def listing(
        self, wanted: JobFilter, limit: int, sort: Sort = "newest", by_work: bool = False
    ) -> ListedJobs:
        """The records of jobs, and what each waits for.

        With `by_work`, a job between two stages counts as queued, not as running.
        """
        if by_work:
            records = list_jobs(self._jobs, wanted, limit, sort, state_of_work)
        else:
            records = list_jobs(self._jobs, wanted, limit, sort)
        return ListedJobs(records, waits(self._jobs, records))

    def notes(self) -> list[str]:
        """Sentences about what a user of the service should know.

        They name workers that take no work, workers of several versions, jobs whose records are
        damaged, and jobs that Redis has lost.
        """
        jobs = self._jobs
        found = []
        for name, unfit in sorted(jobs.unfit().items()):
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(unfit.since))
            found.append(f"{name} takes no work since {since}: {unfit.why}")
        if mixed := mixture(jobs.versions()):
            found.append(f"workers of several versions: {mixed}")
        for job, why in jobs.damaged().items():
            found.append(f"{job} is set aside: {why}; {REPAIR}")
        if unknown := jobs.unknown():
            found.append(
                f"{len(unknown)} jobs here are missing in Redis, such as {unknown[0]}; "
                "`lorajob rebuild` restores them from their files"
            )
        return found

    @property
    def user(self) -> str | None:
        """Who submits: LORAJOB_USER, or the machine's user; None if that has no name."""
        return self._jobs.user

    def workers(self, queue: str) -> int:
        """How many live workers take work of a queue, such as cpu or gpu24."""
        return self._jobs.workers(queue)

    def board(self, lang: str | None = None) -> "list[BoardRow]":
        """Each language, or each of `hi,mr`, with its best delivered model, by name."""
        return read_board(self._jobs, parse_filter(lang, (), (), None).languages)

    def compare(self, first: str, *others: str) -> "Comparison":
        """Compare jobs, each by what `job` takes. See `Job.compare`."""
        return self.job(first).compare(*(self.job(it) for it in others))

    def promoted(self) -> list[PromotedModel]:
        """The models that `lorajob serve` uses, by language. `Job.promote` promotes one."""
        promotions = Promotions(self._jobs.settings)
        found = [(code, promotions.current(code)) for code in promotions.languages()]
        return [
            PromotedModel(language=code, **it.model_dump()) for code, it in found if it is not None
        ]

    @property
    def glossaries(self) -> Glossaries:
        """The terms that `lorajob serve` listens for: `list`, `get`, `add`, `remove`."""
        return LocalGlossaries(self._jobs)

    @property
    def texts(self) -> TextsByLanguage:
        """The texts of languages, which jobs use beside their audio: `list`, `set`, `remove`."""
        return LocalTexts(self._jobs)

    def rollback(self, language: str) -> RolledBack:
        """Use the previously promoted model of a language again. Raises UsageError without one."""
        code, old, new = Promotions(self._jobs.settings).rollback(language)
        return RolledBack(language=code, job=new.job, instead_of=old.job)

    def rebuild(self, take_over: bool = False) -> Rebuilt:
        """Restore the records of jobs whose files are there and whose records are lost or damaged.

        With `take_over`, also of jobs of another service. Raises ServiceError.
        """
        return rebuild(self._jobs.settings, take_over)

    def prune(self, older: str, keep: Keep = "best", dry_run: bool = False) -> DeletedJobs:
        """Delete jobs that ended more than `older` ago, such as 30d, and return their ids.

        With `keep="best"`, the best job of each language, base model and test set is kept. With
        `dry_run`, nothing is deleted. Queued, running and promoted jobs are always kept. Corpora
        that other machines sent and no job names are deleted, too, a day after they came.
        """
        found = prune_all(self._jobs, parse_age(older), keep, dry_run)
        return DeletedJobs((it.id for it in found.jobs), map(str, found.corpora), found.notes)
