"""The screen that tries a model: one recording, the base beside the tuned model, with its terms.

Models run in processes of their own, which end when they were not used for some minutes.
"""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

from fastapi import APIRouter, FastAPI, Form, Query, Request, UploadFile
from starlette.responses import Response

from lorajob.book.terms import terms_of
from lorajob.errors import (
    FULL,
    DiskError,
    LorajobError,
    ModelError,
    ServiceError,
    UsageError,
)
from lorajob.languages import find_language
from lorajob.server.web.pages_html import screen
from lorajob.server.web.pages_jobs import JobsView, lines_of, read_lines
from lorajob.server.web.state import Service, UserJobs
from lorajob.serving import models as serving
from lorajob.serving.bases import base_folder
from lorajob.serving.pool import ModelPool
from lorajob.spec import JobSpec
from lorajob.storage.hashes import file_hash
from lorajob.storage.urls import public
from lorajob.tasks.glossaries import GlossaryFiles
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.naming import find_id
from lorajob.tasks.promotions import open_delivered

HEAR = "/try/hear"
UPLOADS = "uploads"
LEFT_SECONDS = 3600.0  # an older upload is of a server that was killed
MEMORY_BYTES = 12e9  # for models; the longest unused one is unloaded first
IDLE_SECONDS = 300.0  # after which all models are unloaded
LONGEST_SECONDS = 600.0  # of one request
MOST_TERMS = 1000  # of the form
WITH_GLOSSARY = "tuned, with glossary"
PIECE_BYTES = 1 << 20
ENDING = re.compile(r"\.[A-Za-z0-9]{1,9}")  # of a file's name


class Trials:
    """The processes of the models that are tried. Use it in one event loop."""

    def __init__(self) -> None:
        self._pool: ModelPool | None = None
        self._used = 0.0
        self._open = 0
        self._idle: asyncio.Task[None] | None = None

    async def hear(
        self, model: serving.ServedModel, path: Path, terms: "TrialTerms | None" = None
    ) -> "Heard":
        """The transcript of a recording, or the reason why the model gave no text."""
        try:
            return await self.listen(model, path, terms)
        except LorajobError as error:
            return Heard(fault=str(error))

    async def listen(
        self, model: serving.ServedModel, path: Path, terms: "TrialTerms | None" = None
    ) -> "Heard":
        """The transcript of a recording, with terms that are listened for. Raises LorajobError."""
        self._open += 1
        try:
            pool = self._pool = self._pool or ModelPool(MEMORY_BYTES)
            async with asyncio.timeout(LONGEST_SECONDS):
                return await _hear(pool, model, path, terms or TrialTerms())
        except TimeoutError:
            raise UsageError(f"The model took more than {LONGEST_SECONDS:g} s.") from None
        finally:
            self._open -= 1
            self._used = time.monotonic()
            if self._idle is None or self._idle.done():
                self._idle = asyncio.create_task(self._unload())

    async def close(self) -> None:
        """End all processes."""
        if self._idle is not None:
            self._idle.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _unload(self) -> None:
        """Unload the models when they were not used for some time."""
        while self._open or time.monotonic() - self._used < IDLE_SECONDS:
            await asyncio.sleep(max(1.0, self._used + IDLE_SECONDS - time.monotonic()))
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()


@dataclass(frozen=True)
class TrialTerms:
    """Terms to listen for: the glossaries of the language and the job, and those of the form."""

    files: tuple[serving.GlossaryFile, ...] = ()
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heard:
    """What a model heard, or why it heard nothing."""

    pieces: tuple[serving.SpokenPiece, ...] = ()
    separator: str = " "  # between two words; empty in languages without spaces
    seconds: float = 0.0  # of sound
    took: float = 0.0  # seconds of decoding
    fault: str = ""
    changed: frozenset[tuple[int, int]] = frozenset()
    """(piece, word) of each word that the other transcript does not have there."""

    @property
    def terms(self) -> list[str]:
        """The terms that the glossaries put into the text."""
        return list(dict.fromkeys(term for piece in self.pieces for term in piece.terms))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.listener = Trials()
    _drop_left(app.state.web.folder / UPLOADS)
    yield
    await app.state.listener.close()


router = APIRouter(prefix="/try", lifespan=_lifespan)


@router.get("")
def show_try(request: Request, jobs: UserJobs, job: Annotated[str, Query()] = "") -> Response:
    """The form, with the newest models."""
    chosen = jobs.load(find_id(jobs, job)).id if job else ""
    lines, _ = read_lines(jobs, JobsView(state="succeeded"))
    if chosen and chosen not in {it.id for it in lines}:
        lines = [*lines_of(jobs, [chosen]), *lines]
    return screen(request, "try.html", lines=lines, chosen=chosen)


@router.post("/hear")
async def hear(
    request: Request,
    jobs: UserJobs,
    service: Service,
    job: Annotated[str, Form()],
    file: UploadFile,
    terms: Annotated[str, Form()] = "",
) -> Response:
    """What the base and the tuned model hear in a recording, as a part of the page.

    If there are terms, the tuned model hears it with and without them.
    """
    listener: Trials = request.app.state.listener
    folder = service.folder / UPLOADS
    with ExitStack() as held:
        try:
            path = await asyncio.to_thread(keep_upload, file, folder, held)
            tuned, base = await asyncio.to_thread(_models, jobs, job, held)
            wanted = await asyncio.to_thread(_terms, jobs, tuned, terms, folder, held)
        except (LorajobError, OSError) as error:
            return screen(request, "heard.html", problem=str(error), rows=[])
        asked = [listener.hear(base, path), listener.hear(tuned, path)]
        if wanted.files or wanted.own:
            asked.append(listener.hear(tuned, path, wanted))
        found = await asyncio.gather(*asked)
    rows = [("base", base.name, found[0]), ("tuned", tuned.name, found[1])]
    if len(found) > 2:
        # Of long texts it takes seconds.
        without, having = await asyncio.to_thread(_compared, found[1], found[2])
        # Both of the tuned model stand side by side.
        rows = [("tuned", tuned.name, without), (WITH_GLOSSARY, tuned.name, having), rows[0]]
    return screen(request, "heard.html", problem="", rows=rows, with_glossary=WITH_GLOSSARY)


def _drop_left(folder: Path) -> None:
    """Delete the recordings that a killed server left."""
    for path in folder.glob("*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_SECONDS:
                path.unlink()


def keep_upload(file: UploadFile, folder: Path, held: ExitStack) -> Path:
    """Write an upload to a file that goes when `held` is closed.

    Raises UsageError if it is empty, ServiceError and DiskError if it cannot be written.
    """
    ending = Path(file.filename or "").suffix
    suffix = ending if ENDING.fullmatch(ending) else ""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # `held` closes it.
        kept = held.enter_context(NamedTemporaryFile(dir=folder, suffix=suffix))  # noqa: SIM115
        shutil.copyfileobj(file.file, kept, PIECE_BYTES)
        kept.flush()
    except OSError as error:
        kind = DiskError if error.errno in FULL else ServiceError
        raise kind(f"{folder}: {error.strerror}") from error
    if not kept.tell():
        raise UsageError("The file is empty; choose or record another one")
    return Path(kept.name)


def _models(
    jobs: Jobs, name: str, held: ExitStack
) -> tuple[serving.ServedModel, serving.ServedModel]:
    """The delivered model of a job, and its base. Raises LorajobError."""
    tuned, spec = tuned_model(jobs, find_id(jobs, name), held)
    try:
        folder = base_folder(spec.base_model)
    except ModelError as error:
        # The option is that of `lorajob serve`.
        raise ModelError(str(error).removeprefix("--models: ")) from None
    hashes = {it.name: file_hash(it) for it in folder.iterdir() if it.is_file()}
    name = public(spec.base_model)
    base = serving.ServedModel(name=name, folder=folder, language=tuned.language, sha256=hashes)
    return tuned, base


def tuned_model(jobs: Jobs, job: str, held: ExitStack) -> tuple[serving.ServedModel, JobSpec]:
    """The delivered model of a job, which stays here until `held` is closed, and the job's
    settings. Raises LorajobError.
    """
    found = held.enter_context(open_delivered(job, jobs.settings))
    model = serving.ServedModel(
        name=job,
        folder=found.folder,
        language=find_language(found.language).token,
        code=find_language(found.language).code,
        spec=found.spec,
        sha256=found.sha256,
        created=int(found.made),
    )
    return model, JobSpec.load(found.spec)


def _terms(
    jobs: Jobs, model: serving.ServedModel, text: str, folder: Path, held: ExitStack
) -> TrialTerms:
    """The terms of the form, and the glossaries of the model's language and job, which lie in files
    until `held` is closed. Raises LorajobError.
    """
    own = tuple(it for it in text.replace("\r\n", "\n").split("\n") if it.strip())
    if len(own) > MOST_TERMS:
        raise UsageError(
            f"At most {MOST_TERMS:,} names and terms; `lorajob glossary add` keeps up to 100,000 "
            "for a language"
        )
    terms_of(own)
    stored = GlossaryFiles(jobs.settings)
    files = []
    for name in (model.code, model.name):
        found = None if name is None else stored.content(name)
        if name is None or found is None:
            continue
        # `held` closes it.
        kept = held.enter_context(NamedTemporaryFile(dir=folder, suffix=".txt"))  # noqa: SIM115
        kept.write(found.text.encode())
        kept.flush()
        files.append(serving.GlossaryFile(name=name, path=Path(kept.name), sha256=found.sha256))
    return TrialTerms(tuple(files), own)


def _compared(one: Heard, other: Heard) -> tuple[Heard, Heard]:
    """Two transcripts of a recording, with the words marked that they do not share."""
    places = [
        [(at, number) for at, piece in enumerate(it.pieces) for number in range(len(piece.words))]
        for it in (one, other)
    ]
    words = [
        [it.pieces[at].words[number].word for at, number in where]
        for it, where in zip((one, other), places, strict=True)
    ]
    same = SequenceMatcher(None, words[0], words[1], autojunk=False).get_matching_blocks()
    changed = [set(it) for it in places]
    for block in same:
        changed[0] -= set(places[0][block.a : block.a + block.size])
        changed[1] -= set(places[1][block.b : block.b + block.size])
    return replace(one, changed=frozenset(changed[0])), replace(
        other, changed=frozenset(changed[1])
    )


async def _hear(
    pool: ModelPool, model: serving.ServedModel, path: Path, terms: TrialTerms
) -> Heard:
    asked = serving.Request(
        id=0,
        path=path,
        language=model.language,
        times=True,
        glossaries=terms.files,
        terms=terms.own,
    )
    pieces, separator, seconds = [], " ", 0.0
    async with pool.use(model) as process:
        began = time.monotonic()
        async with aclosing(process.answers(asked)) as answers:
            async for answer in answers:
                if answer.begun is not None:
                    separator, seconds = answer.begun.separator, answer.begun.seconds
                if answer.piece is not None and answer.piece.text.strip():
                    pieces.append(answer.piece)
    return Heard(tuple(pieces), separator, seconds, time.monotonic() - began)
