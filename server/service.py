"""Decodes requests with their model, and limits their number and time."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorajob.errors import LorajobError, UsageError
from lorajob.languages import find_language
from lorajob.server.catalogue import Choice, ModelCatalogue
from lorajob.server.errors import ApiError, api_error
from lorajob.server.forms import SpeechForm
from lorajob.server.glossaries import GlossaryShelf
from lorajob.server.metrics import ServerMetrics
from lorajob.server.tracing import RequestTraces
from lorajob.serving.models import Begun, GlossaryFile, Request, ServedModel, SpokenPiece
from lorajob.serving.pool import ModelPool
from lorajob.serving.process import ModelCrashed

LONGEST_RETRY_SECONDS = 30.0
REMEMBERED = 0.9  # share that the past keeps in the mean time of a request


@dataclass(frozen=True)
class Limits:
    """The limits of one server."""

    requests: int = 256
    """Open at a time: being decoded, or waiting."""
    seconds: float = 600.0
    """For one request, from the end of its upload."""
    body_bytes: int = 1 << 30
    """Of one request."""
    a_minute: int | None = None
    """Requests of one key in a minute; None: any number."""


class SpeechService:
    """The state of one server."""

    def __init__(
        self,
        pool: ModelPool,
        catalogue: ModelCatalogue,
        metrics: ServerMetrics,
        limits: Limits,
        uploads: Path,
        glossaries: GlossaryShelf | None = None,
    ) -> None:
        """`glossaries` is None for a server without the glossaries of languages and jobs."""
        self.pool, self.catalogue, self.metrics = pool, catalogue, metrics
        self.limits, self.uploads = limits, uploads
        self._glossaries = glossaries
        self.traces = RequestTraces()
        self._open = 0
        self._mean_seconds = 1.0

    @property
    def open_requests(self) -> int:
        """How many requests are decoded or wait."""
        return self._open

    def check_room(self) -> None:
        """Raise ApiError 429 if as many requests are open as are allowed."""
        if self._open >= self.limits.requests:
            raise ApiError(
                429,
                f"{self._open} requests are open; try again later",
                code="rate_limit_exceeded",
                retry_after=min(LONGEST_RETRY_SECONDS, self._mean_seconds),
            )

    @contextmanager
    def slot(self) -> Iterator[None]:
        """One of the open requests, while the block runs. Raises ApiError 429."""
        self.check_room()
        self._open += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._open -= 1
            spent = time.monotonic() - began
            self._mean_seconds = REMEMBERED * self._mean_seconds + (1 - REMEMBERED) * spent

    async def decode(self, form: SpeechForm) -> AsyncGenerator[Begun | SpokenPiece, None]:
        """Yield Begun, then the transcript of each window. Raises ApiError."""
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        try:
            async with asyncio.timeout_at(deadline):
                choice = await self.catalogue.choose(form.model, form.language)
                model, language = await self._chosen(choice, form)
                glossaries = await self._books(model, language, form)
            request = Request(
                id=0,
                path=form.file,
                language=language,
                translate=form.task == "translate",
                prompt=form.prompt,
                temperature=form.temperature,
                times=form.times,
                glossaries=glossaries,
                terms=form.glossary,
            )
            async with aclosing(self._answers(model, request)) as answers:
                while True:
                    # The yield is outside: the time of a slow client does not count.
                    async with asyncio.timeout_at(deadline):
                        answer = await anext(answers, None)
                    if answer is None:
                        return
                    yield answer
        except TimeoutError:
            raise ApiError(504, f"The request took more than {self.limits.seconds:g} s") from None
        except LorajobError as error:
            raise api_error(error) from error

    async def _chosen(self, choice: Choice, form: SpeechForm) -> tuple[ServedModel, str | None]:
        """The model and Whisper language of a request. A missing language is detected."""
        if len(choice.models) == 1:
            return choice.models[0], choice.language
        listener = next((it for it in choice.models if self.pool.has(it)), choice.models[0])
        bases = [it for it in choice.models if it.language is None]
        among = () if bases else tuple(it.language for it in choice.models if it.language)
        request = Request(id=0, path=form.file, among=among, detect_only=True)
        heard = None
        async with aclosing(self._answers(bases[0] if bases else listener, request)) as answers:
            async for answer in answers:
                if isinstance(answer, Begun):
                    heard = answer.language
        tuned = [it for it in choice.models if it.language == heard]
        return (tuned or bases or [listener])[0], heard

    async def _books(
        self, model: ServedModel, language: str | None, form: SpeechForm
    ) -> tuple[GlossaryFile, ...]:
        """The glossaries of the language and the model of a request, unless it wants none."""
        if self._glossaries is None or not form.use_glossary or form.task == "translate":
            return ()
        spoken = model.code or form.language or language
        try:
            code = None if spoken is None else find_language(spoken).code
        except UsageError:  # a code that only Whisper has
            code = None
        return await self._glossaries.find(code, model.name)

    async def _answers(
        self, model: ServedModel, request: Request
    ) -> AsyncGenerator[Begun | SpokenPiece, None]:
        """The answers of a model. If its process ends before the first one, try again once."""
        for last in (False, True):
            answered = False
            try:
                async with (
                    self.pool.use(model) as process,
                    aclosing(process.answers(request)) as answers,
                ):
                    async for answer in answers:
                        answered = answered or answer.piece is not None
                        if (found := answer.begun or answer.piece) is not None:
                            yield found
                return
            except ModelCrashed:
                if last or answered:
                    raise
