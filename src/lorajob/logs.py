"""How log lines look: text for people, or one JSON object a line (LORAJOB_LOG_FORMAT=json)."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

FORMAT_VARIABLE = "LORAJOB_LOG_FORMAT"
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# A process works on one stage at a time, and its threads' lines belong to that stage as well:
# hence no ContextVar.
_bound: dict[str, object] = {}


class JsonFormatter(logging.Formatter):
    """time (UTC), level, logger, message; job, stage, attempt, worker where bound; traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return line(
            record.levelname.lower(),
            record.name,
            record.getMessage(),
            datetime.fromtimestamp(record.created, UTC),
            **_of_task(record),
            **({"traceback": self.formatException(record.exc_info)} if record.exc_info else {}),
        )


def line(level: str, logger: str, message: str, time: datetime, **fields: Any) -> str:
    """One JSON object, without a line break."""
    values: dict[str, object] = {"time": time.isoformat(timespec="milliseconds"), "level": level}
    values |= {"logger": logger, "message": message} | _bound | fields
    return json.dumps(values, ensure_ascii=False, default=str)


def wants_json() -> bool:
    """Whether the environment asks for JSON."""
    return os.environ.get(FORMAT_VARIABLE, "").strip().lower() == "json"


def configure(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Have the root logger write to `stream` (standard error), in the form asked for."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if wants_json() else logging.Formatter(TEXT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if wants_json():
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Have these fields stand in every line of this process while the block runs."""
    before = dict(_bound)
    bind(**fields)
    try:
        yield
    finally:
        _bound.clear()
        _bound.update(before)


def bind(**fields: Any) -> None:
    """Have these fields stand in every line of this process from now on; None leaves one out."""
    _bound.update({name: value for name, value in fields.items() if value is not None})


def _of_task(record: logging.LogRecord) -> dict[str, str]:
    """Celery's own lines about a task carry what it is."""
    data = getattr(record, "data", None)
    if not isinstance(data, dict) or not str(data.get("name", "")).startswith("lorajob."):
        return {}
    return {"task": str(data.get("id")), "stage": str(data["name"]).removeprefix("lorajob.")}


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("lorajob").critical("uncaught %s", kind.__name__, exc_info=error)
