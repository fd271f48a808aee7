"""The endpoints that transcribe and translate; they answer at once or as a stream."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from lorajob.languages import find_language
from lorajob.server import formats
from lorajob.server.errors import LEFT, ApiError
from lorajob.server.forms import SpeechForm, Task, speech_form
from lorajob.server.service import SpeechService
from lorajob.server.tracing import RequestTrace
from lorajob.serving.models import Begun, SpokenPiece

log = logging.getLogger(__name__)


async def answer(request: Request, task: Task) -> Response:
    """Answer one request. Raises ApiError."""
    service: SpeechService = request.app.state.service
    came = time.monotonic()
    trace = service.traces.begin(task, request.headers)
    try:
        return await _answer(service, request, task, trace)
    except ApiError as error:
        service.metrics.answered(task, error.status, time.monotonic() - came)
        trace.end(error.status)
        raise
    # A bug is counted here, and answered and logged by the server.
    except Exception:
        service.metrics.answered(task, 500, time.monotonic() - came)
        trace.end(500)
        raise


async def _answer(
    service: SpeechService, request: Request, task: Task, trace: RequestTrace
) -> Response:
    # Before the upload, so that a full server refuses it at once.
    service.check_room()
    async with AsyncExitStack() as held:
        form = await held.enter_async_context(speech_form(request, task, service.uploads))
        held.enter_context(service.slot())
        trace.of(form.model)
        began = time.monotonic()
        if form.stream:
            stream = aclosing(service.decode(form))
            answers = await held.enter_async_context(stream)
            # Errors of a request are raised before its first answer.
            begun = await anext(answers)
            return EventStream(service, form, begun, answers, held.pop_all(), began, trace)
        work = asyncio.create_task(_whole(service, form, trace))
        if await _finished(work, request.receive):
            response = work.result()
        else:
            log.info("a client left before its answer")
            response = Response(status_code=LEFT)
        service.metrics.answered(task, response.status_code, time.monotonic() - began)
        trace.end(response.status_code)
        return response


async def _finished(work: "asyncio.Task[Any]", receive: Receive) -> bool:
    """Wait for the end of `work`, and return True. If the client leaves, cancel it: False."""
    left = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        for task in (work, left):
            task.cancel()
            with suppress(asyncio.CancelledError, ApiError):
                await task


async def _left(receive: Receive) -> None:
    """Wait until the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole(service: SpeechService, form: SpeechForm, trace: RequestTrace) -> Response:
    begun: Begun | None = None
    pieces: list[SpokenPiece] = []
    async with aclosing(service.decode(form)) as answers:
        async for found in answers:
            if isinstance(found, Begun):
                begun = found
            else:
                pieces.append(found)
                trace.heard(found)
    if begun is None:
        raise ApiError(500, "The model gave no answer")
    trace.lasts(begun.seconds)
    service.metrics.heard(form.model, begun.seconds)
    return _written(form, begun, pieces)


def _written(form: SpeechForm, begun: Begun, pieces: list[SpokenPiece]) -> Response:
    text = formats.transcript_of(pieces, begun.separator)
    match form.format:
        case "text":
            return PlainTextResponse(text + "\n")
        case "srt":
            return PlainTextResponse(formats.srt(formats.segments(pieces)))
        case "vtt":
            body = formats.VTT_HEAD + formats.vtt(formats.segments(pieces))
            return PlainTextResponse(body)
        case "verbose_json":
            return JSONResponse(_verbose(form, begun, pieces))
        case "json":
            return JSONResponse({"text": text, "usage": formats.usage(begun)})


def _verbose(form: SpeechForm, begun: Begun, pieces: list[SpokenPiece]) -> dict[str, object]:
    name = "english" if form.task == "translate" else find_language(begun.language).name
    return formats.verbose(form.task, name, begun, pieces, form.granularities)


class EventStream(Response):
    """A transcript as server-sent events: `transcript.text.delta`, then `transcript.text.done`.

    The deltas together are the text of the last event, in the format that was asked for. An error
    after the first event is an event with the field `error`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        service: SpeechService,
        form: SpeechForm,
        first: Begun | SpokenPiece,
        answers: AsyncIterator[Begun | SpokenPiece],
        held: AsyncExitStack,
        began: float,
        trace: RequestTrace,
    ) -> None:
        super().__init__(status_code=200)
        self._trace = trace
        self._service, self._form, self._first = service, form, first
        self._answers, self._held, self._began = answers, held, began
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the end, or until the client leaves."""
        status = LEFT
        async with self._held:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            work = asyncio.create_task(self._send(send))
            try:
                if await _finished(work, receive):
                    status = work.result()
            finally:
                spent = time.monotonic() - self._began
                self._service.metrics.answered(self._form.task, status, spent)
                self._trace.end(status)

    async def _send(self, send: Send) -> int:
        """Send all events. Returns the status for the metrics."""
        status = 200
        try:
            async for event in self._events():
                await _send_event(send, event)
        except ApiError as error:
            status = error.status
            await _send_event(send, error.body)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return status

    async def _events(self) -> AsyncIterator[dict[str, object]]:
        begun: Begun | None = None
        pieces: list[SpokenPiece] = []
        whole = ""
        async for found in _chained(self._first, self._answers):
            if isinstance(found, Begun):
                begun = found
                self._trace.lasts(found.seconds)
                continue
            self._trace.heard(found)
            if begun is None:
                raise ApiError(500, "The model gave no answer")
            delta = _delta(self._form, begun, pieces, found, whole)
            pieces.append(found)
            if delta:
                whole += delta
                yield {"type": "transcript.text.delta", "delta": delta}
        if begun is None:
            raise ApiError(500, "The model gave no answer")
        if not whole and self._form.format == "vtt":
            whole = formats.VTT_HEAD
            yield {"type": "transcript.text.delta", "delta": whole}
        self._service.metrics.heard(self._form.model, begun.seconds)
        done: dict[str, object] = {"type": "transcript.text.done", "text": whole}
        if self._form.format == "verbose_json":
            done = _verbose(self._form, begun, pieces) | done
        yield done | {"usage": formats.usage(begun)}


def _delta(
    form: SpeechForm, begun: Begun, before: list[SpokenPiece], piece: SpokenPiece, whole: str
) -> str:
    """What a piece adds to the text of the stream."""
    match form.format:
        case "srt":
            return formats.srt(formats.segments([piece]), len(formats.segments(before)) + 1)
        case "vtt":
            cues = formats.vtt(formats.segments([piece]))
            return cues if whole else formats.VTT_HEAD + cues
        case _:
            return (begun.separator if whole and piece.text else "") + piece.text


async def _chained(
    first: Begun | SpokenPiece, others: AsyncIterator[Begun | SpokenPiece]
) -> AsyncIterator[Begun | SpokenPiece]:
    yield first
    async for it in others:
        yield it


async def _send_event(send: Send, values: dict[str, object]) -> None:
    data = json.dumps(values, ensure_ascii=False).encode()
    await send(
        {"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True}
    )
