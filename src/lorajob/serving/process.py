"""The server's side of a model's process: starts it, sends requests, receives answers."""

import asyncio
import itertools
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress

from lorajob.errors import LorajobError
from lorajob.serving.models import Answer, Failure, Instruction, Ready, Request, ServedModel

LINE_BYTES = 1 << 24  # of one answer, at most
STOP_SECONDS = 10.0  # until a process that does not end is killed

log = logging.getLogger(__name__)


class ModelCrashed(LorajobError):
    """The process of a model ended while it had requests. Another try may succeed."""

    kind = "crash"


class RequestFailed(LorajobError):
    """The process of a model refused to load it, or could not decode a request."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.kind = failure.kind


class ModelProcess:
    """A running process that holds one model."""

    def __init__(
        self,
        model: ServedModel,
        process: asyncio.subprocess.Process,
        heard_batch: Callable[[int], None] = lambda windows: None,
    ) -> None:
        self.model, self._process, self._heard_batch = model, process, heard_batch
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Queue[Answer | None]] = {}
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        model: ServedModel,
        device: str = "auto",
        heard_batch: Callable[[int], None] = lambda windows: None,
    ) -> "ModelProcess":
        """Start a process and wait until it has loaded the model.

        Raises RequestFailed if it cannot load the model, and ModelCrashed if it ends.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lorajob.serving.child", model.model_dump_json()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=model_environment(device),
            limit=LINE_BYTES,
            # Ctrl-C is for the server, which stops its models when requests have ended.
            start_new_session=True,
        )
        started = cls(model, process, heard_batch)
        try:
            await asyncio.shield(started._ready)
        except BaseException:
            await started.stop()
            raise
        return started

    @property
    def ready(self) -> Ready:
        """The answer of the process after it loaded its model."""
        return self._ready.result()

    @property
    def alive(self) -> bool:
        """Whether the process runs and answers."""
        return not self._reader.done() and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def answers(self, request: Request) -> AsyncGenerator[Answer, None]:
        """The answers to a request, until it is done. Its `id` is set here.

        If the iterator is closed early, the request is cancelled. Raises RequestFailed, and
        ModelCrashed if the process ends.
        """
        number = next(self._numbers)
        heard: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._open[number] = heard
        ended = False
        try:
            await self._order(Instruction(request=request.model_copy(update={"id": number})))
            while True:
                answer = await heard.get()
                if answer is None:
                    raise ModelCrashed(f"{self.model.name}: its process ended; try again")
                if answer.failure is not None:
                    ended = True
                    raise RequestFailed(answer.failure)
                if answer.done:
                    ended = True
                    return
                yield answer
        finally:
            self._open.pop(number, None)
            if not ended and self.alive:
                with suppress(ModelCrashed):
                    await self._order(Instruction(cancel=number))

    async def stop(self) -> None:
        """Close the input of the process, which ends it; kill it if it does not end in time."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._reader

    async def _order(self, order: Instruction) -> None:
        stdin = self._process.stdin
        if stdin is None or not self.alive:
            raise ModelCrashed(f"{self.model.name}: its process ended; try again")
        try:
            stdin.write(order.model_dump_json(exclude_defaults=True).encode() + b"\n")
            await stdin.drain()
        except (ConnectionError, RuntimeError):
            raise ModelCrashed(f"{self.model.name}: its process ended; try again") from None

    async def _read(self) -> None:
        """Pass each answer to its request, until the process ends."""
        stdout = self._process.stdout
        try:
            while stdout is not None and (line := await stdout.readline()):
                self._hear(Answer.model_validate_json(line))
        except ValueError:
            log.error("%s: its process wrote a malformed answer, so it is killed", self.model.name)
            with suppress(ProcessLookupError):
                self._process.kill()
        code = await self._process.wait()
        if not self._ready.done():
            self._ready.set_exception(
                ModelCrashed(f"{self.model.name}: its process ended with {code} while loading")
            )
            self._ready.exception()  # is also raised where it is awaited
        for heard in self._open.values():
            heard.put_nowait(None)

    def _hear(self, answer: Answer) -> None:
        if answer.batch:
            self._heard_batch(answer.batch)
        if answer.ready is not None:
            self._ready.set_result(answer.ready)
        elif answer.id:
            if answer.id in self._open:
                self._open[answer.id].put_nowait(answer)
        elif answer.failure is not None and not self._ready.done():
            self._ready.set_exception(RequestFailed(answer.failure))
            self._ready.exception()


def model_environment(device: str) -> Mapping[str, str]:
    """The environment of a model's process, without keys and passwords of the service."""
    secret = ("KEY", "PASSWORD", "SECRET", "WEBHOOK", "REDIS")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("LORAJOB_") and any(word in name for word in secret))
    }
    if device == "cpu":
        kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept
