"""The models that requests can name: promoted languages, jobs, and bases named at the start.

A name is resolved for each request, so a promotion counts from the next request on.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lorajob.errors import JobNotFoundError, LorajobError, UsageError
from lorajob.job.jobdir import JOB_ID, hash_files
from lorajob.languages import find_language
from lorajob.server.errors import ApiError
from lorajob.serving.bases import base_folder
from lorajob.serving.models import ServedModel
from lorajob.serving.pool import ModelPool
from lorajob.tasks.promotions import Promotions, open_delivered
from lorajob.worker.artifacts.lookup import recorded_ids
from lorajob.worker.settings import Settings

# With these names the language decides which model is used.
ANY = ("auto", "whisper-1")
REREAD_SECONDS = 1.0  # between two readings of the promotions

Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What a request's `model` and `language` mean."""

    models: tuple[ServedModel, ...]
    """The candidates. If there are several, the detected language decides."""
    language: str | None
    """Whisper code; None: it is detected, among those of the candidates."""


class ModelCatalogue:
    """Finds models by the names that clients use.

    `names` are the models of `--models`: languages, ids of jobs, folders or names of bases. Empty:
    every promoted language and every job.
    """

    def __init__(self, settings: Settings, names: Sequence[str], pool: ModelPool) -> None:
        self._settings, self._names, self._pool = settings, list(names), pool
        self._promotions = Promotions(settings)
        self._jobs: dict[str, ServedModel] = {}
        self._bases: dict[str, ServedModel] = {}
        self._promoted: dict[str, str] = {}  # language -> job, as read last
        self._answering: dict[str, ServedModel] = {}  # language -> model, as requests use it
        self._read_at = float("-inf")
        self._first: asyncio.Task[None] | None = None  # the first reading of the promotions
        self._swaps: dict[str, asyncio.Task[None]] = {}
        self._held = ExitStack()  # copies of jobs from a store
        # One thread fetches each job only once, and does not block requests.
        self._thread = ThreadPoolExecutor(1, "catalogue")

    async def open(self) -> list[ServedModel]:
        """Find the models of `--models`. Raises LorajobError for one that does not exist."""
        found = []
        for name in self._names:
            if _is_job(name):
                found.append(await self._job(name))
            elif (code := _language(name)) is not None:
                await self._reread()
                if code not in self._promoted:
                    raise UsageError(
                        f"--models: no model of {code} is promoted; `lorajob promote JOB` promotes "
                        "one"
                    )
                found.append(await self._of_language(code))
            else:
                model = await self._run(functools.partial(_base, name))
                self._bases[model.name] = self._bases[name] = model
                found.append(model)
        return found

    async def close(self) -> None:
        """Release the copies of jobs."""
        for task in self._swaps.values():
            task.cancel()
        self._thread.submit(self._held.close).result()
        self._thread.shutdown()

    async def listed(self) -> list[ServedModel]:
        """The models of /v1/models: bases, promoted languages, and the jobs that are named."""
        await self._reread()
        found = {model.name: model for model in self._bases.values()}
        for code in self._languages():
            try:
                model = await self._of_language(code)
            except LorajobError as error:
                log.warning("%s: %s", code, error)
                continue
            found[code] = model.model_copy(update={"name": code})
            found[model.name] = model
        for name in filter(_is_job, self._names):
            found[name] = await self._job(name)
        return list(found.values())

    async def find(self, name: str) -> ServedModel:
        """The model of one name. Raises ApiError 404."""
        choice = await self.choose(name, None)
        if name in ANY or len(choice.models) != 1:
            raise ApiError(
                404, f"The name {name!r} stands for several models", "model", "model_not_found"
            )
        return choice.models[0]

    async def choose(self, name: str, language: str | None) -> Choice:
        """What a request's model and language mean. Raises ApiError."""
        code = _whisper_code(language)
        if name in self._bases:
            return Choice((self._bases[name],), code)
        await self._reread()
        if name in ANY:
            return await self._any(name, language, code)
        try:
            if _is_job(name) and self._allowed(name):
                model = await self._job(name)
            elif (own := _language(name)) in self._languages() and own is not None:
                model = await self._of_language(own)
            else:
                raise _unknown(name)
        except (JobNotFoundError, UsageError):
            raise _unknown(name) from None
        if code is not None and model.language not in (None, code):
            raise ApiError(
                400,
                f"{language!r} is not the language of the model {name!r}, which is for "
                f"{model.language!r}; leave the language out, or name another model",
                "language",
            )
        return Choice((model,), model.language)

    async def _any(self, name: str, language: str | None, code: str | None) -> Choice:
        """The model of the language; without one, all models that have a language of their own."""
        languages = self._languages()
        if language is not None:
            own = find_language(language).code
            if own in languages:
                model = await self._of_language(own)
                return Choice((model,), model.language)
            if self._bases:
                return Choice((next(iter(self._bases.values())),), code)
            raise ApiError(
                400,
                f"No model of the language {language!r} is promoted; there are models of "
                f"{', '.join(languages) or 'no language'}",
                "language",
            )
        models = [await self._of_language(it) for it in languages]
        models += [await self._job(it) for it in self._names if _is_job(it)]
        # A base model detects languages better than a model that was tuned for one.
        bases = {it.key: it for it in self._bases.values()}
        models = [*bases.values(), *models]
        if not models:
            raise _unknown(name)
        if len(models) == 1:
            return Choice((models[0],), models[0].language)
        return Choice(tuple(models), None)

    def _languages(self) -> list[str]:
        if not self._names:
            return list(self._promoted)
        named = {_language(it) for it in self._names if not _is_job(it)}
        return [code for code in self._promoted if code in named]

    def _allowed(self, job: str) -> bool:
        return not self._names or job in self._names or job in self._promoted.values()

    async def _reread(self) -> None:
        """Read the promotions, at most once in REREAD_SECONDS. If that fails, the old ones stay.

        Requests during the first reading wait for it, because they have no old ones to use.
        """
        if self._first is None:
            self._read_at = time.monotonic()
            self._first = asyncio.create_task(self._read())
        if not self._first.done():
            await asyncio.shield(self._first)
        elif time.monotonic() - self._read_at >= REREAD_SECONDS:
            self._read_at = time.monotonic()
            await self._read()

    async def _read(self) -> None:
        try:
            self._promoted = await self._run(self._read_promotions)
        except (LorajobError, OSError) as error:
            log.warning("promotions cannot be read, so the last known ones are used: %s", error)

    def _read_promotions(self) -> dict[str, str]:
        return {code: job for job, code in self._promotions.current_jobs().items()}

    async def _of_language(self, code: str) -> ServedModel:
        """The model of a language.

        After a promotion it is the old one until the new one is loaded, if both fit into memory.
        """
        wanted = await self._job(self._promoted[code])
        answering = self._answering.get(code)
        if (
            answering is None
            or answering == wanted
            or not self._pool.has(answering)
            or not (self._pool.has(wanted) or self._pool.fits(wanted))
            or self._pool.has(wanted)
        ):
            self._answering[code] = wanted
        elif code not in self._swaps or self._swaps[code].done():
            self._swaps[code] = asyncio.create_task(self._swap(code, wanted))
        return self._answering[code]

    async def _swap(self, code: str, wanted: ServedModel) -> None:
        """Load the new model of a language, then use it. If loading fails, the old one stays."""
        try:
            async with self._pool.use(wanted):
                self._answering[code] = wanted
            log.info("%s: %s is used now", code, wanted.name)
        except LorajobError as error:
            log.error("%s: %s is not used, so the old model stays: %s", code, wanted.name, error)

    async def _job(self, job: str) -> ServedModel:
        if job not in self._jobs:
            self._jobs[job] = await self._run(lambda: self._open_job(job))
        return self._jobs[job]

    def _open_job(self, job: str) -> ServedModel:
        if job not in recorded_ids(self._settings, "spec.json"):
            raise JobNotFoundError(f"JOB: {job!r} has no files in LORAJOB_ARTIFACTS")
        found = self._held.enter_context(open_delivered(job, self._settings))
        return ServedModel(
            name=job,
            folder=found.folder,
            language=find_language(found.language).token,
            code=found.language,
            spec=found.spec,
            sha256=found.sha256,
            created=int(found.made),
        )

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _is_job(name: str) -> bool:
    return JOB_ID.fullmatch(name) is not None and "-" in name and _language(name) is None


def _language(name: str) -> str | None:
    try:
        return find_language(name).code
    except UsageError:
        return None


def _whisper_code(language: str | None) -> str | None:
    if language is None:
        return None
    try:
        return find_language(language).token
    except UsageError as error:
        raise ApiError(400, str(error).removeprefix("language: "), "language") from None


def _unknown(name: str) -> ApiError:
    return ApiError(
        404,
        f"The model {name!r} does not exist or is not served; /v1/models lists the models",
        "model",
        "model_not_found",
    )


def _base(name: str) -> ServedModel:
    """A base by its folder or name. Its files are those of the start."""
    folder = base_folder(name)
    path = Path(name)
    files = {it: str(values["sha256"]) for it, values in hash_files(folder).items()}
    return ServedModel(
        name=path.resolve().name if path.is_dir() else name,
        folder=folder,
        sha256=files,
        created=int((folder / "model.bin").stat().st_mtime),
    )
