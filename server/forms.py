"""Reads and checks the form of a transcription request. The file goes to disk."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast, get_args

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from lorajob.book.terms import GlossaryError, terms_of
from lorajob.server.errors import LEFT, ApiError
from lorajob.server.formats import FORMATS, Format

Task = Literal["transcribe", "translate"]
Granularity = Literal["segment", "word"]

MOST_FIELDS = 32  # beside the terms
MOST_TERMS = 1000  # of one request
FIELD_BYTES = 64 << 10
FULL_DISK_SECONDS = 10.0  # until a client may send a file again that could not be written
GRANULARITIES = "timestamp_granularities"
GLOSSARY, USE_GLOSSARY = "glossary", "use_glossary"
# Fields of both tasks; those below belong to transcriptions only.
FIELDS = ("file", "model", "prompt", "response_format", "temperature")
TRANSCRIPTION_FIELDS = (
    "language",
    "stream",
    GRANULARITIES,
    "chunking_strategy",
    GLOSSARY,
    USE_GLOSSARY,
)


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpeechForm:
    """A checked request. `file` is removed when the request ends."""

    task: Task
    file: Path
    model: str
    language: str | None
    prompt: str
    temperature: float
    format: Format
    granularities: frozenset[str]
    stream: bool
    glossary: tuple[str, ...] = ()
    """Terms of this request."""
    use_glossary: bool = True
    """Use the glossaries of the language and the model."""

    @property
    def times(self) -> bool:
        """Whether the times of words are needed."""
        return self.format in ("srt", "vtt", "verbose_json")


@contextlib.asynccontextmanager
async def speech_form(request: Request, task: Task, folder: Path) -> AsyncIterator[SpeechForm]:
    """The form of a request. Its file lies in `folder` while the block runs.

    Raises ApiError that names the wrong field.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(400, f"The body must be multipart/form-data, not {kind or 'untyped'}")
    try:
        # OpenAI's client sends each term of a list as a field.
        most = MOST_FIELDS + MOST_TERMS
        form = await request.form(max_files=1, max_fields=most, max_part_size=FIELD_BYTES)
    except HTTPException as error:
        if error.detail.startswith("Too many fields"):
            raise _too_many_terms() from None
        raise ApiError(400, f"The form is malformed: {error.detail}") from None
    except ClientDisconnect:
        raise ApiError(LEFT, "The client left before the form was complete") from None
    except OSError as error:
        raise _no_room(error) from error
    try:
        # In a thread: a thousand terms with many sounds take a while, in which others are served.
        checked = await asyncio.to_thread(_checked, form, task)
        upload = cast(UploadFile, form["file"])
        # FFmpeg tells formats apart by their content; a name could act on a path.
        number, name = tempfile.mkstemp(dir=folder)
        path = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                try:
                    await asyncio.to_thread(_copy, upload.file, file)
                except OSError as error:
                    raise _no_room(error) from error
            yield dataclasses.replace(checked, file=path)
        finally:
            path.unlink(missing_ok=True)
    finally:
        await form.close()


def _no_room(error: OSError) -> ApiError:
    """The answer if an upload cannot be written."""
    log.error("an upload cannot be written: %s", error)
    said = "The server cannot store the file now; its log says why"
    return ApiError(503, said, "file", retry_after=FULL_DISK_SECONDS)


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    source.seek(0)
    shutil.copyfileobj(source, target, 1 << 20)


def _checked(form: FormData, task: Task) -> SpeechForm:
    allowed = FIELDS + (TRANSCRIPTION_FIELDS if task == "transcribe" else ())
    for name in form:
        if name.removesuffix("[]") not in allowed:
            raise ApiError(400, f"Unknown field {name!r}; allowed: {', '.join(allowed)}", name)
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise ApiError(400, "The field 'file' must be a file", "file")
    if upload.size == 0:
        raise ApiError(400, "The file is empty", "file")
    model = _text(form, "model")
    if not model:
        raise ApiError(400, "The field 'model' is missing; /v1/models lists the models", "model")
    chosen = _text(form, "response_format") or "json"
    if chosen not in FORMATS:
        raise ApiError(
            400, f"{chosen!r} is not a format; allowed: {', '.join(FORMATS)}", "response_format"
        )
    if _text(form, "chunking_strategy") not in ("", "auto"):
        raise ApiError(
            400, "Only 'auto' is supported: long audio is split in its pauses", "chunking_strategy"
        )
    return SpeechForm(
        task=task,
        file=Path(),
        model=model,
        language=_text(form, "language") or None,
        prompt=_text(form, "prompt"),
        temperature=_temperature(_text(form, "temperature")),
        format=chosen,
        granularities=_granularities(form, chosen),
        stream=_flag(form, "stream"),
        glossary=_terms(form),
        use_glossary=_flag(form, USE_GLOSSARY, True),
    )


def _text(form: FormData, name: str) -> str:
    values = form.getlist(name)
    if len(values) > 1:
        raise ApiError(400, f"The field {name!r} is given {len(values)} times", name)
    if values and not isinstance(values[0], str):
        raise ApiError(400, f"The field {name!r} must be text", name)
    return str(values[0]).strip() if values else ""


def _terms(form: FormData) -> tuple[str, ...]:
    """The terms of a request: of a list a field each, or lines of one text."""
    given = [*form.getlist(GLOSSARY), *form.getlist(f"{GLOSSARY}[]")]
    if not all(isinstance(it, str) for it in given):
        raise ApiError(400, f"The field {GLOSSARY!r} must be text", GLOSSARY)
    lines = [line for it in given for line in str(it).replace("\r\n", "\n").split("\n")]
    if len(lines) > MOST_TERMS:
        raise _too_many_terms()
    try:
        terms_of(lines)
    except GlossaryError as error:
        raise ApiError(400, str(error), GLOSSARY) from None
    return tuple(it for it in lines if it.strip())


def _too_many_terms() -> ApiError:
    return ApiError(
        400,
        f"A request has at most {MOST_TERMS:,} terms; `lorajob glossary add` keeps up to 100,000 "
        "for a language",
        GLOSSARY,
    )


def _flag(form: FormData, name: str, missing: bool = False) -> bool:
    text = _text(form, name).lower()
    if not text:
        return missing
    if text not in ("", "true", "false", "1", "0"):
        raise ApiError(400, f"{text!r} is neither true nor false", name)
    return text in ("true", "1")


def _temperature(text: str) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ApiError(400, f"{text!r} is not a number from 0 to 1", "temperature")
    return value


def _granularities(form: FormData, chosen: str) -> frozenset[str]:
    given = [*form.getlist(GRANULARITIES), *form.getlist(f"{GRANULARITIES}[]")]
    wrong = [it for it in given if it not in get_args(Granularity)]
    if wrong:
        raise ApiError(400, f"{wrong[0]!r} is neither 'segment' nor 'word'", f"{GRANULARITIES}[]")
    if given and chosen != "verbose_json":
        raise ApiError(400, "It needs response_format=verbose_json", f"{GRANULARITIES}[]")
    return frozenset(str(it) for it in given) or frozenset({"segment"})
