"""The jobs of a service that is reached by the url of its `lorajob web`, without Redis."""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

from lorajob.client.batch import Batch, ChangedJobs
from lorajob.client.glossaries import Glossaries, RemoteGlossaries
from lorajob.client.job import Job
from lorajob.client.models import DeletedJobs, ListedJobs, Note, PromotedModel, RolledBack, say
from lorajob.client.remote_files import export_bundle, extract, fetch_curves
from lorajob.client.remote_paths import explained, of_the_service
from lorajob.client.requests import PathOrUrl
from lorajob.client.results import AudioPath
from lorajob.client.service import Client
from lorajob.client.texts import RemoteTexts, TextsByLanguage
from lorajob.client.uploads import upload_corpus, with_sets, with_uploads
from lorajob.client.web_api import (
    LONG_SECONDS,
    LONGEST_PAUSE,
    MOST_FAILURES,
    Query,
    WebApi,
    events,
    job_path,
)
from lorajob.errors import ServiceError, StageError, UsageError
from lorajob.job.jobdir import JOB_ID, JobDir, write_whole
from lorajob.job.states import JobState
from lorajob.spec import JobSpec
from lorajob.storage.urls import public
from lorajob.tasks.batches import Submitted
from lorajob.tasks.listing import Sort
from lorajob.tasks.prune import Keep
from lorajob.tasks.rebuild import Rebuilt
from lorajob.tasks.verify import Verified, VerifiedBase, VerifiedStage
from lorajob.worker.queues import Priority
from lorajob.worker.records.batches import JobBatch
from lorajob.worker.records.names import UNNAMED, Naming
from lorajob.worker.records.record import JobRecord

if TYPE_CHECKING:
    from lorajob.reporting.board import BoardRow

__all__ = ("RemoteBatch", "RemoteClient", "RemoteJob", "WebApi", "follow_log", "job_path")
PAGE = 200  # jobs in one request
Made = TypeVar("Made", VerifiedStage, VerifiedBase, Rebuilt)

log = logging.getLogger(__name__)


def batch_path(batch: str) -> str:
    """`/batches/BATCH`."""
    return f"/batches/{quote(batch, safe='')}"


@dataclass(frozen=True)
class RemoteWait:
    """What a job waits for, as the server says it."""

    text: str
    short: str  # for a table

    def __str__(self) -> str:
        return self.text


def _listed_jobs(found: Any) -> ListedJobs:
    """Records of an answer, and what their jobs wait for."""
    short = found["waits_short"]
    waits = {job: RemoteWait(text, short.get(job, text)) for job, text in found["waits"].items()}
    return ListedJobs([JobRecord.model_validate(it) for it in found["records"]], waits)


def _made(kind: type[Made], values: Any) -> Made:
    """A dataclass of the values of an answer. A newer server may say more."""
    known = {it.name for it in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def checked_id(job_id: str) -> str:
    """The id of a job that a server named. Raises ServiceError for one that could be a path."""
    if not JOB_ID.fullmatch(job_id):
        raise ServiceError(f"the server names a job {job_id[:80]!r}, which is not a job's id")
    return job_id


class RemoteJob(Job):
    """One job of a service behind a url. Files are downloaded when they are asked for."""

    def __init__(self, api: WebApi, job_id: str) -> None:
        super().__init__(None, job_id)
        self._api = api

    def _load(self) -> JobRecord:
        return self._state()[0]

    def copy(self) -> None:
        """The server has shown it, if need be."""
        return None

    def wait_of(self, record: JobRecord) -> str | None:
        return self._state()[1]

    def _state(self) -> tuple[JobRecord, str | None]:
        found = self._api.get(f"{job_path(self.id)}/record")
        return JobRecord.model_validate(found["records"][0]), found["waits"].get(self.id)

    def cancel(self) -> None:
        self._api.post(f"{job_path(self.id)}/cancel")

    def retry(self) -> None:
        self._api.post(f"{job_path(self.id)}/retry")

    def verify(self) -> Verified:
        """As `Job.verify`. The server reads the files."""
        found = self._api.get(f"{job_path(self.id)}/verify", seconds=LONG_SECONDS)
        base = found["base"]
        return Verified(
            id=str(found["id"]),
            stages={name: _made(VerifiedStage, it) for name, it in found["stages"].items()},
            base=None if base is None else _made(VerifiedBase, base),
            faults=tuple(found["faults"]),
        )

    def export_to(
        self, folder: Path, asked: Query, say: Callable[[str], None] = say
    ) -> tuple[str, ...]:
        """Have the server make the model's bundle, and download it to an empty `folder`.

        `asked` has the values of /api/jobs/JOB/export, `say` gets the name of each part. Returns
        notes about the bundle. Raises LorajobError; then `folder` may have some of the files.
        """
        return export_bundle(self._api, self.id, folder, asked, say)

    def curves_to(self, folder: Path) -> int:
        """Download TensorBoard's files below `folder`, over those of an earlier call.

        Returns how many there are.
        """
        return fetch_curves(self._api, self.id, folder)

    def remove(self, damaged: bool = False) -> None:
        remove_job(self._api, self.id, damaged=damaged)

    def promote(self, force: bool = False) -> PromotedModel:
        found = self._api.post(f"{job_path(self.id)}/promote", force=str(force).lower())
        return PromotedModel.model_validate(found)

    def log(self) -> Iterator[str]:
        """The text of the logs as it is written, until the job ends. Resumes a lost connection."""
        return self.logs(follow=True)

    def logs(
        self, stage: str | None = None, follow: bool = False, note: Note = say
    ) -> Iterator[str]:
        """As `Job.logs`. Resumes a lost connection."""
        if follow:
            yield from follow_log(self._api, self.id, stage)
            return
        with self._api.open("GET", f"{job_path(self.id)}/logs", {"stage": stage}) as answer:
            if text := answer.read().decode("utf-8", "replace"):
                yield text

    def write_report(self, path: AudioPath, full: bool = False) -> Path:
        """As `Job.write_report`. The server draws the page."""
        query = {"full": str(full).lower()}
        with self._api.open("GET", f"{job_path(self.id)}/report", query) as answer:
            write_whole(Path(path), answer.read())
        return Path(path)

    @contextmanager
    def _open(self, *stages: str) -> Iterator[JobDir]:
        with tempfile.TemporaryDirectory(prefix="lorajob-job-") as name:
            root = Path(name) / checked_id(self.id)
            root.mkdir()
            query = {"part": list(stages)}
            extract(self._api, f"{job_path(self.id)}/files", root, query)
            yield JobDir(root)


class RemoteBatch(Batch):
    """One batch of a service behind a url."""

    def __init__(self, api: WebApi, batch_id: str) -> None:
        super().__init__(None, batch_id)
        self._api = api

    @property
    def jobs(self) -> list[Job]:
        return [RemoteJob(self._api, record.id) for record in self.read()[1].records]

    def read(self) -> tuple[JobBatch, ListedJobs]:
        found = self._api.get(f"{batch_path(self.id)}/record")
        return JobBatch.model_validate(found["batch"]), _listed_jobs(found)

    def cancel(self) -> ChangedJobs:
        return ChangedJobs.read(self._api.post(f"{batch_path(self.id)}/cancel"))

    def retry(self, failed_only: bool = False) -> ChangedJobs:
        path, only = f"{batch_path(self.id)}/retry", str(failed_only).lower()
        return ChangedJobs.read(self._api.post(path, failed=only))


class RemoteClient(Client):
    """The jobs of a service behind the url of its `lorajob web`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        super().__init__(None)
        self.api = WebApi(url, key)
        self._twins: dict[str, str | None] = {}  # of the jobs that were submitted here

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
        """As `Client.submit`. Paths are those of the service's machines; corpora that are one file
        of this machine are sent.
        """
        if isinstance(sets, str):
            raise UsageError(f"sets: {sets!r} is one text; give a list, such as ['train.epochs=2']")
        places = {"corpus": corpus, "base_model": base_model}
        spec: dict[str, object] = {"language": language} | settings
        spec |= {key: str(value) for key, value in places.items() if value is not None}
        more = {"preset": preset, "sets": list(sets), "priority": priority}
        made = self.post_job(spec, more | {"name": name, "tags": dict(tags or {})})
        return RemoteJob(self.api, str(made["id"]))

    def submit_spec(
        self, spec: JobSpec, priority: Priority = "normal", naming: Naming = UNNAMED
    ) -> Job:
        """As `Client.submit_spec`. Paths are those of the service's machines."""
        more = {"priority": priority, "name": naming.name, "tags": dict(naming.tags)}
        values = spec.model_dump(mode="json", exclude_defaults=True)
        return RemoteJob(self.api, str(self.post_job(values, more)["id"]))

    def post_job(self, spec: Mapping[str, object], more: Mapping[str, object]) -> Any:
        """Queue a job with these settings. A corpus that only this machine has is sent first.

        An error about a path of this machine says so.
        """
        (spec,), more = with_sets([spec], more)
        with of_the_service([spec]):
            (sent,) = with_uploads(self.api, [spec], say)
            # The server may download a text before it answers.
            made = self.api.post("/jobs", {**more, "spec": sent}, seconds=LONG_SECONDS)
        self._twins[str(made["id"])] = made.get("twin")
        return made

    def submit_batch(
        self,
        specs: Sequence[JobSpec],
        priority: Priority = "normal",
        naming: Naming = UNNAMED,
        salt: str = "",
    ) -> Submitted:
        """As `Client.submit_batch`. With any `salt`, the batch is queued anew."""
        values = [it.model_dump(mode="json", exclude_defaults=True) for it in specs]
        more = {"priority": priority, "name": naming.name, "tags": dict(naming.tags)}
        return self.post_batch(values, more | {"anew": bool(salt)})

    def post_batch(
        self, specs: Sequence[Mapping[str, object]], more: Mapping[str, object]
    ) -> Submitted:
        """Queue a batch of jobs with these settings; each may have a `preset` of its own."""
        specs, more = with_sets(specs, more)
        with of_the_service(specs):
            specs = with_uploads(self.api, specs, say)
            body = {**more, "specs": list(specs)}
            made = self.api.post("/batches", body, seconds=LONG_SECONDS)
        rejected = {job: explained(why, specs) for job, why in made["rejected"].items()}
        batch, notes = self.batch(str(made["id"])).record, tuple(map(str, made.get("notes", ())))
        return Submitted(batch, int(made["queued"]), rejected, notes)

    def upload_corpus(self, path: AudioPath) -> str:
        """Send a corpus that is one file, unless it is there. Returns its path on the service."""
        return upload_corpus(self.api, Path(path), say)

    def job(self, job: str) -> Job:
        """The job with this id, beginning of an id, or name; `@last` is this key's newest one."""
        return RemoteJob(self.api, str(self.api.get(job_path(job))["id"]))

    def find_id(self, job: str) -> str:
        return self.job(job).id

    def job_of(self, job_id: str) -> Job:
        return RemoteJob(self.api, job_id)

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
        """As `Client.jobs`."""
        wanted = {"lang": lang, "state": list(states), "tag": list(tags)}
        query = {**wanted, "since": since, "sort": sort}
        found = listed(self.api, "jobs", limit, query)[0]
        return [self.job_of(str(it["id"])) for it in found]

    def twin(self, job: Job, spec: JobSpec) -> Job | None:
        """As `Client.twin`."""
        if job.id in self._twins:
            found = self._twins[job.id]
        else:
            body = {"spec": spec.model_dump(mode="json", exclude_defaults=True)}
            answer = self.api.post(f"{job_path(job.id)}/twin", body, seconds=LONG_SECONDS)
            found = answer["twin"]
        return None if found is None else RemoteJob(self.api, str(found))

    def notes(self) -> list[str]:
        return [str(it) for it in self.api.get("/notes")["notes"]]

    @property
    def user(self) -> str | None:
        """Whose key it is."""
        return str(self.api.get("")["user"])

    def batch(self, batch_id: str) -> Batch:
        found = RemoteBatch(self.api, batch_id)
        found.read()
        return found

    def workers(self, queue: str) -> int:
        found = self.api.get("/fleet")["queues"]
        return sum(int(it["workers"]) for it in found if it["name"] == queue)

    def prune(self, older: str, keep: Keep = "best", dry_run: bool = False) -> DeletedJobs:
        """As `Client.prune`. The server deletes."""
        if dry_run:
            query = {"older": older, "keep": keep}
            found = self.api.get("/prune", query, seconds=LONG_SECONDS)
        else:
            found = self.api.post("/prune", seconds=LONG_SECONDS, older=older, keep=keep)
        return DeletedJobs(found["jobs"], found.get("corpora", ()), found.get("notes", ()))

    def rebuild(self, take_over: bool = False) -> Rebuilt:
        """As `Client.rebuild`, from the files that the server sees."""
        taken = str(take_over).lower()
        found = self.api.post("/rebuild", seconds=LONG_SECONDS, take_over=taken)
        lists = {name: tuple(it) for name, it in found.items() if isinstance(it, list)}
        return _made(Rebuilt, lists)

    def board(self, lang: str | None = None) -> "list[BoardRow]":
        from lorajob.reporting.board import BoardRow

        # A newer server may say more about each.
        return [
            BoardRow.model_validate({name: it[name] for name in it.keys() & BoardRow.model_fields})
            for it in self.api.get("/board", {"lang": lang})
        ]

    def promoted(self) -> list[PromotedModel]:
        return [PromotedModel.model_validate(it) for it in self.api.get("/models")]

    @property
    def glossaries(self) -> Glossaries:
        return RemoteGlossaries(self.api)

    @property
    def texts(self) -> TextsByLanguage:
        return RemoteTexts(self.api)

    def rollback(self, language: str) -> RolledBack:
        found = self.api.post(f"/models/{quote(language, safe='')}/rollback")
        return RolledBack.model_validate(found)


def remove_job(
    api: WebApi, job: str, *, anyone: bool = False, damaged: bool = False, dry_run: bool = False
) -> str:
    """Delete a job, or with `dry_run` only check that it can be deleted. Returns its id."""
    flags = {"anyone": anyone, "damaged": damaged, "dry_run": dry_run}
    query = {name: "true" for name, value in flags.items() if value}
    with api.open("DELETE", job_path(job), query, seconds=LONG_SECONDS) as answer:
        return str(json.load(answer)["id"])


def listed(
    api: WebApi, what: Literal["jobs", "records"], limit: int, query: Query
) -> tuple[list[Any], dict[str, str]]:
    """Up to `limit` jobs or records of a list, and what the records wait for."""
    found: list[Any] = []
    waits: dict[str, str] = {}
    after = None
    while len(found) < limit:
        asked = {**query, "limit": min(PAGE, limit - len(found)), "after": after}
        page = api.get(f"/{what}", asked)
        found += page[what]
        waits |= page.get("waits_short", {})
        if page.get("truncated") and after is None:
            log.warning("only the newest jobs are sorted; --since and --lang choose others")
        after = page["next"]
        if after is None:
            break
    return found, waits


def follow_log(api: WebApi, job: str, stage: str | None = None) -> Iterator[str]:
    """The text of a job's logs as it is written, with a heading for each stage, until its end.

    Continues where the connection was lost. Raises ServiceError if the server stays unavailable for
    two minutes.
    """
    place: str | None = None
    last: str | None = None
    begun, failures = False, 0
    while True:
        headers = {} if place is None else {"Last-Event-ID": place}
        try:
            path = f"{job_path(job)}/logs/follow"
            with api.open("GET", path, {"stage": stage}, headers=headers) as answer:
                begun = True
                for name, mark, data in events(answer):
                    place, failures = mark or place, 0
                    if name == "end":
                        return
                    if name == "error":
                        raise StageError(str(data["message"]))
                    if data["stage"] != last and stage is None:
                        yield f"==> {data['stage']} <==\n"
                    last = str(data["stage"])
                    yield str(data["text"])
            lost = ServiceError(f"{public(api.url)} ends the log of {job} before the job")
        except ServiceError as error:
            lost = error
        failures += 1
        if not begun or failures > MOST_FAILURES:
            raise lost
        time.sleep(min(2.0 ** (failures - 1), LONGEST_PAUSE))
