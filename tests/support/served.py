"""The application of `lorajob serve` in this process, with a model that is a fake."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from lorajob.server.app import create_app
from lorajob.server.catalogue import Choice
from lorajob.server.glossaries import GlossaryShelf
from lorajob.server.metrics import ServerMetrics
from lorajob.server.service import Limits, SpeechService
from lorajob.serving.models import Answer, Begun, Request, ServedModel, SpokenPiece
from lorajob.serving.process import ModelCrashed

MODEL = ServedModel(name="hi", folder=Path("/nowhere"), language="hi")
FILE = {"file": ("a.wav", b"sound")}


class Process:
    """Answers with one piece, in its own time. Crashes as often as it is told to."""

    def __init__(self, seconds: float = 0.0, crashes: int = 0) -> None:
        self.seconds, self.crashes, self.begun, self.ended = seconds, crashes, 0, 0
        self.asked: list[Request] = []
        self.terms: list[str] = []  # that it puts into its text

    async def answers(self, request: Request) -> AsyncIterator[Answer]:
        self.begun += 1
        self.asked.append(request)
        try:
            yield Answer(id=1, begun=Begun(language="hi", seconds=1))
            if self.begun <= self.crashes:
                raise ModelCrashed("its process ended")
            await asyncio.sleep(self.seconds)
            yield Answer(id=1, piece=SpokenPiece(start=0, end=1, text="कखग", terms=self.terms))
        finally:
            self.ended += 1


class Pool:
    """Has one model, always."""

    starts = crashes = 0

    def __init__(self, process: Process) -> None:
        self.process = process

    def loaded(self) -> list[str]:
        return ["hi"]

    @asynccontextmanager
    async def use(self, model: ServedModel) -> AsyncIterator[Process]:
        yield self.process


class ModelCatalogue:
    """Has the same model for each name."""

    async def choose(self, name: str, language: str | None) -> Choice:
        return Choice((MODEL,), "hi")

    async def listed(self) -> list[ServedModel]:
        return [MODEL]

    async def find(self, name: str) -> ServedModel:
        return MODEL


@contextmanager
def serving(
    folder: Path,
    process: Process | None = None,
    keys: tuple[str, ...] = (),
    glossaries: GlossaryShelf | None = None,
    **limits: Any,
) -> Iterator[TestClient]:
    """A client of the application, which runs in this process."""
    pool: Any = Pool(process or Process())
    catalogue: Any = ModelCatalogue()
    metrics = ServerMetrics()
    service = SpeechService(pool, catalogue, metrics, Limits(**limits), folder, glossaries)
    with TestClient(create_app(service, keys), raise_server_exceptions=False) as client:
        yield client
