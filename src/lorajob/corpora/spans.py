"""Where in its recording a clip lies, as the columns of a table say."""

import math
import re
from collections.abc import Mapping

STARTS = (
    *("start", "offset", "start_time", "begin", "begin_time", "start_seconds", "start_sec"),
    *("start_s", "onset", "xmin", "tmin", "segment_start", "audio_start", "start_timestamp"),
)
ENDS = (
    *("end", "end_time", "stop", "stop_time", "end_seconds", "end_sec", "end_s", "xmax", "tmax"),
    *("segment_end", "audio_end", "end_timestamp"),
)
DURATION = "duration"
DURATIONS = (DURATION, "dur", "duration_seconds", "duration_sec", "duration_s")
# Of the columns in milliseconds, such as `start_ms`.
MILLISECONDS = ("_ms", "_millis", "_milliseconds")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")

Span = tuple[float, float | None]
WHOLE: Span = (0.0, None)


def span_of(row: Mapping[str, str], duration_cuts: bool = False) -> Span:
    """(start, end) in seconds of the clip of a row; an end of None is the recording's end.

    The columns are those of STARTS, and of ENDS or DURATIONS; empty ones are left out. A
    duration without a start is a fact about a file and cuts nothing, unless `duration_cuts`. Raises
    ValueError, in a few words, for a time that is no time.
    """
    start = _first(row, STARTS)
    end = _first(row, ENDS)
    duration = _first(row, DURATIONS)
    if end is None and duration is not None and (start is not None or duration_cuts):
        end = (start or 0.0) + duration
    if end is not None and end <= (start or 0.0):
        raise ValueError("segment that ends before it starts")
    return (start or 0.0, end)


def stated_seconds(row: Mapping[str, str]) -> float | None:
    """The length in seconds that a row states; None if it states none that is a time."""
    try:
        return _first(row, DURATIONS)
    except ValueError:
        return None


def seconds(text: str) -> float:
    """Seconds of `12.5`, `12,5`, `1:02.5` or `0:01:02,500`. Raises ValueError for anything else."""
    text = text.strip()
    if match := _CLOCK.fullmatch(text):
        hours, minutes, rest = match.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(rest.replace(",", "."))
    value = float(text.replace(",", ".") if text.count(",") == 1 else text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{text} is no time")
    return value


def _first(row: Mapping[str, str], names: tuple[str, ...]) -> float | None:
    for name in names:
        for unit, column in ((1, name), *((1000, f"{name}{end}") for end in MILLISECONDS)):
            text = row.get(column, "").strip()
            if text:
                try:
                    return seconds(text) / unit
                except ValueError:
                    kind = "milliseconds" if unit > 1 else "seconds"
                    raise ValueError(f"{column} that is no time in {kind}") from None
    return None


def is_time(column: str) -> bool:
    """Whether a column of this name says where a clip lies."""
    for end in MILLISECONDS:
        column = column.removesuffix(end)
    return column in (*STARTS, *ENDS, *DURATIONS)
