"""The jobs of a service that is reached by the url of its `lorajob web`, without Redis."""

import io
import json
import logging
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import quote, urlencode, urlsplit

from lorajob import errors
from lorajob.client.batch import Batch
from lorajob.client.glossaries import Glossaries, RemoteGlossaries
from lorajob.client.job import Job
from lorajob.client.models import Note, PromotedModel, RolledBack, say
from lorajob.client.requests import PathOrUrl
from lorajob.client.results import AudioPath
from lorajob.client.service import Client
from lorajob.errors import FULL, LorajobError, ServiceError, StageError, UsageError
from lorajob.job.jobdir import JobDir, write_whole
from lorajob.job.states import JobState
from lorajob.storage.urls import public
from lorajob.tasks.listing import Sort
from lorajob.worker.records.record import JobRecord

if TYPE_CHECKING:
    from lorajob.reporting.board import BoardRow

TIMEOUT_SECONDS = 60.0  # for the next bytes of an answer
PAGE = 200  # jobs in one request
MOST_FAILURES = 20  # of a log's connection in succession, with pauses of two minutes in all
LONGEST_PAUSE = 8.0  # seconds
Query = Mapping[str, object]

log = logging.getLogger(__name__)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would send the key to another server."""

    def redirect_request(self, *args: object, **named: object) -> None:
        return None


class WebApi:
    """Sends requests to the REST API of one server. Raises the errors that the server states."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = _checked_url(url.strip())
        self._key = _checked_key((key or "").strip())
        self._opener = urllib.request.build_opener(_NoRedirect())

    @property
    def headers(self) -> dict[str, str]:
        """The headers that hold the key."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON of a GET request."""
        with self.open("GET", path, query) as answer:
            return self._json(answer)

    def post(self, path: str, body: Mapping[str, object] | None = None, **query: object) -> Any:
        """The JSON of a POST request."""
        with self.open("POST", path, query, {} if body is None else body) as answer:
            return self._json(answer)

    def send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The JSON of a request of another method."""
        with self.open(method, path, None, body) as answer:
            return self._json(answer)

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[HTTPResponse]:
        """An answer to read from. Raises ServiceError if the server is unavailable."""
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        words = f"?{urlencode(asked, doseq=True)}" if asked else ""
        request = urllib.request.Request(f"{self.url}/api{path}{words}", method=method)
        for name, value in (self.headers | dict(headers or {})).items():
            request.add_header(name, value)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            raise self._stated(error) from None
        except (OSError, HTTPException) as error:
            # A file of this machine, which what was read is written to.
            if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
                raise
            why = getattr(error, "reason", None) or error
            raise ServiceError(f"{public(self.url)} is unavailable: {why}") from None

    def _json(self, answer: HTTPResponse) -> Any:
        # A proxy that asks for a login of its own answers with a page.
        try:
            return json.load(answer)
        except ValueError:
            said = f"{public(self.url)} does not answer in JSON; is it a `lorajob web`?"
            raise ServiceError(said) from None

    def _stated(self, error: urllib.error.HTTPError) -> LorajobError:
        """The error of an answer, of the class that the server raised."""
        try:
            said = json.loads(error.read(1 << 20))["error"]
            message, code = str(said["message"]), said["code"]
        except (ValueError, LookupError, TypeError, OSError, HTTPException):
            return ServiceError(f"{public(self.url)} answers {error.code}; is it a `lorajob web`?")
        if error.code == 401:
            return ServiceError(f"{public(self.url)}: {message}; set LORAJOB_API_KEY")
        if error.code in (403, 422) and code != "corpus":
            return UsageError(message)
        classes = [it for it in vars(errors).values() if isinstance(it, type)]
        known = {it.kind: it for it in classes if issubclass(it, LorajobError)}
        return known.get(str(code), ServiceError)(message)


def _checked_url(url: str) -> str:
    """The url without a slash at its end. Raises UsageError, which shows no secret."""
    try:
        found = urlsplit(url)
        host, _ = found.hostname or "", found.port
        host.encode("idna")
        known = found.scheme in ("http", "https") and bool(host)
    except ValueError:
        found, known = None, False
    plain = not any(letter <= " " or letter == "\x7f" for letter in url)
    if found is None or not known or not plain or found.query or found.fragment:
        raise UsageError(f"url: {public(url)!r} is not a url such as http://host:8080")
    if "@" in found.netloc:
        said = "holds a login; the key is given in LORAJOB_API_KEY, or as `key`"
        raise UsageError(f"url: {public(url)!r} {said}")
    return url.rstrip("/")


def _checked_key(key: str) -> str | None:
    """The key. Raises UsageError, which does not show it, for what no header may hold."""
    if not all("!" <= letter <= "~" for letter in key):
        raise UsageError(
            "LORAJOB_API_KEY: has a character that is not allowed in a key, such as a space, a line"
            " break or a letter that is not ASCII"
        )
    return key or None


def job_path(job: str) -> str:
    """`/jobs/JOB`, for any name of a job."""
    return f"/jobs/{quote(job, safe='@')}"


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

    def remove(self, damaged: bool = False) -> None:
        if damaged:
            raise UsageError("damaged: is for the machines of the service, not over a url")
        with self._api.open("DELETE", job_path(self.id)):
            return

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
            root = Path(name) / self.id
            root.mkdir()
            query = {"part": list(stages)}
            with self._api.open("GET", f"{job_path(self.id)}/files", query) as answer:
                _extract(answer, root)
            yield JobDir(root)


def _extract(answer: HTTPResponse, root: Path) -> None:
    """Unpack a tar file below `root`, and nowhere else."""
    try:
        with tarfile.open(fileobj=answer, mode="r|") as tar:
            tar.extractall(root, filter="data")
    except tarfile.TarError as error:
        raise StageError(f"the download was cut off: {error}") from None


class RemoteClient(Client):
    """The jobs of a service behind the url of its `lorajob web`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        super().__init__(None)
        self.api = WebApi(url, key)

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
        """As `Client.submit`. Paths are absolute, and those of the service's machines."""
        if isinstance(sets, str):
            raise UsageError(f"sets: {sets!r} is one text; give a list, such as ['train.epochs=2']")
        places = {"corpus": corpus, "base_model": base_model}
        spec: dict[str, object] = {"language": language} | settings
        spec |= {key: str(value) for key, value in places.items() if value is not None}
        body = {"spec": spec, "preset": preset, "sets": list(sets), "priority": priority}
        made = self.api.post("/jobs", body | {"name": name, "tags": dict(tags or {})})
        return RemoteJob(self.api, str(made["id"]))

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
        query = {
            "lang": lang,
            "state": list(states),
            "tag": list(tags),
            "since": since,
            "sort": sort,
        }
        found = listed(self.api, "jobs", limit, query)[0]
        return [self.job_of(str(it["id"])) for it in found]

    def batch(self, batch_id: str) -> Batch:
        raise UsageError(f"{batch_id}: batches are not known over a url, only single jobs")

    def workers(self, queue: str) -> int:
        raise ServiceError("workers are not known over a url")

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

    def rollback(self, language: str) -> RolledBack:
        found = self.api.post(f"/models/{quote(language, safe='')}/rollback")
        return RolledBack.model_validate(found)


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
                for name, mark, data in _events(answer):
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


def _events(answer: HTTPResponse) -> Iterator[tuple[str, str | None, dict[str, object]]]:
    """(event, id, data) of a stream of server-sent events."""
    fields: dict[str, str] = {}
    for line in io.TextIOWrapper(cast("Any", answer), "utf-8", newline="\n"):
        name, colon, value = line.rstrip("\n").partition(": ")
        if colon and name:
            fields[name] = value
        elif not line.strip() and "data" in fields:
            yield fields.get("event", ""), fields.get("id"), json.loads(fields["data"])
            fields = {}
