"""Counts, medians and histograms of the clips in a table."""

from lorajob.checking.model import Bins, SplitStatistics
from lorajob.checking.table import Table

_COUNTS = """
SELECT count(*) AS clips, coalesce(sum(reason IS NOT NULL), 0) AS dropped,
    coalesce(sum(seconds), 0) / 3600 AS hours,
    count(DISTINCT CASE WHEN reason IS NULL THEN speaker END) AS speakers,
    coalesce(sum(CASE WHEN reason IS NULL THEN words END), 0) AS words,
    count(DISTINCT CASE WHEN reason IS NULL THEN sentence END) AS sentences
FROM clips WHERE split = :split OR :split IS NULL
"""
_PACE = "characters / speech", "reason IS NULL AND characters > 0 AND speech > 0"
_TOKENS = "1.0 * tokens / characters", "reason IS NULL AND characters > 0 AND tokens > 0"
# name -> (expression, condition)
_VALUES = {
    "seconds": ("seconds", "reason IS NULL"),
    "characters_a_second": _PACE,
    "tokens_a_character": _TOKENS,
    "snr_db": ("snr", "snr IS NOT NULL AND snr < 99"),
}
# name -> (unit, expression, condition, start, width, bins)
_BINS = {
    "seconds": ("seconds", *_VALUES["seconds"], 0.0, 1.0, 31),
    "words": ("words", "words", "reason IS NULL", 0.0, 2.0, 25),
    "characters_a_second": ("characters a second of speech", *_PACE, 0.0, 2.0, 30),
    "snr_db": ("dB", *_VALUES["snr_db"], 0.0, 3.0, 27),
}


def split_statistics(table: Table) -> dict[str, SplitStatistics]:
    """The counts of each split."""
    splits = table.rows("SELECT split FROM clips GROUP BY split ORDER BY min(n)")
    return {row["split"]: _statistics(table, row["split"]) for row in splits}


def total_statistics(table: Table) -> SplitStatistics:
    """The counts of all clips."""
    return _statistics(table, None)


def _statistics(table: Table, split: str | None) -> SplitStatistics:
    (counts,) = table.rows(_COUNTS, split=split)
    words = "SELECT count(DISTINCT word) FROM vocabulary WHERE split = :split OR :split IS NULL"
    values = dict(counts) | {"hours": round(counts["hours"], 4)}
    return SplitStatistics(**values, vocabulary=table.value(words, split=split))


def medians(table: Table) -> dict[str, float]:
    """The median of each value that was measured."""
    found = {name: median(table, *value) for name, value in _VALUES.items()}
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def median(table: Table, expression: str, condition: str, **values: object) -> float | None:
    """The median of an SQL expression over the clips of a condition; None without any."""
    count = table.value(f"SELECT count(*) FROM clips WHERE {condition}", **values)
    if not count:
        return None
    query = f"SELECT {expression} FROM clips WHERE {condition} ORDER BY 1 LIMIT 1 OFFSET :half"
    return float(table.value(query, half=count // 2, **values))


def histograms(table: Table) -> dict[str, Bins]:
    """The histograms of the values that were measured."""
    found = {}
    for name, (unit, expression, condition, start, width, bins) in _BINS.items():
        query = f"""SELECT min(:last, max(0, CAST(({expression} - :start) / :width AS INTEGER)))
            AS bin, count(*) AS clips FROM clips WHERE {condition} GROUP BY bin"""
        rows = table.rows(query, start=start, width=width, last=bins - 1)
        if rows:
            counts = {row["bin"]: row["clips"] for row in rows}
            last = max(counts)
            filled = tuple(counts.get(number, 0) for number in range(last + 1))
            found[name] = Bins(unit=unit, start=start, width=width, counts=filled)
    return found
