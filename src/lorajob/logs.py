"""Format of log lines: plain text, or one JSON object for each line (LORAJOB_LOG_FORMAT=json)."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from lorajob.visible import visible, visible_lines

FORMAT_VARIABLE = "LORAJOB_LOG_FORMAT"
# The message, not the whole line: a traceback keeps its lines.
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# A process works on one stage at a time, and the lines of all its threads belong to that stage.
# So a plain dict is right, and a ContextVar is not.
_bound: dict[str, object] = {}


class JsonFormatter(logging.Formatter):
    """Writes time (UTC), level, logger, message, the bound fields and a traceback.

    The bound fields are job, stage, attempt and worker.
    """

    def format(self, record: logging.LogRecord) -> str:
        return line(
            record.levelname.lower(),
            record.name,
            visible_lines(record.getMessage()),
            datetime.fromtimestamp(record.created, UTC),
            **_of_task(record),
            **({"traceback": self.formatException(record.exc_info)} if record.exc_info else {}),
        )


def show_controls(record: logging.LogRecord) -> bool:
    """A filter of a handler that shows control characters of the message. Keeps every record."""
    record.msg, record.args = visible(record.getMessage()), None
    return True


class TextFormatter(logging.Formatter):
    """Writes time, level, logger and message on one line, then a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return visible_lines(super().formatException(ei))


def line(level: str, logger: str, message: str, time: datetime, **fields: Any) -> str:
    """One JSON object, without a line break."""
    values: dict[str, object] = {"time": time.isoformat(timespec="milliseconds"), "level": level}
    values |= {"logger": logger, "message": message} | _bound | fields
    return json.dumps(values, ensure_ascii=False, default=str)


def wants_json() -> bool:
    """Whether LORAJOB_LOG_FORMAT asks for JSON."""
    return os.environ.get(FORMAT_VARIABLE, "").strip().lower() == "json"


def configure(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Let the root logger write to `stream` (default: standard error) in the wanted format."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if wants_json() else TextFormatter(TEXT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if wants_json():
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught


@contextmanager
def quiet_libraries(everything: bool = False) -> Iterator[None]:
    """Hide what libraries of models say about names that will change and kernels that are optional.

    A user cannot change these. With `everything`, all Python warnings are hidden.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        hidden = (Warning,) if everything else (FutureWarning, DeprecationWarning)
        for kind in hidden:
            warnings.simplefilter("ignore", kind)
        yield


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add these fields to every line of this process while the block runs."""
    before = dict(_bound)
    bind(**fields)
    try:
        yield
    finally:
        _bound.clear()
        _bound.update(before)


def bind(**fields: Any) -> None:
    """Add these fields to every line of this process from now on. None values are skipped."""
    _bound.update({name: value for name, value in fields.items() if value is not None})


def _of_task(record: logging.LogRecord) -> dict[str, str]:
    """Task id and stage of a line that Celery itself logs about a task; else nothing."""
    data = getattr(record, "data", None)
    if not isinstance(data, dict) or not str(data.get("name", "")).startswith("lorajob."):
        return {}
    return {"task": str(data.get("id")), "stage": str(data["name"]).removeprefix("lorajob.")}


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("lorajob").critical("uncaught %s", kind.__name__, exc_info=error)
