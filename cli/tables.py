"""The tables of jobs, fitted to the terminal: less important columns are shortened or left out.

The id and the state of a job are never shortened. Other commands take the id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorajob.cli.format import coloured, current_stage, duration, gain, plain_table, state_of_work

if TYPE_CHECKING:
    from rich.table import Table

    from lorajob.tasks.describe import Wait
    from lorajob.worker.records.record import JobRecord

GAP = 2  # characters between two columns, as rich pads them
BAR_WIDTHS = (20, 10, 0)
# The order in which columns are shortened. Each entry takes a column to its next shorter form;
# after its last form the column is left out.
BATCH_ORDER = (
    "DONE",
    "PROGRESS",
    "WER %",
    "LANGUAGE",
    "DONE",
    "WER %",
    "PROGRESS",
    "STAGE",
    "DONE",
)
JOBS_ORDER = (
    "PROGRESS",
    "WER %",
    "LANGUAGE",
    "AGE",
    "AGE",
    "WER %",
    "PROGRESS",
    "STAGE",
    "BATCH",
)


@dataclass
class Column:
    """A column and its cells, in several forms. Each form is shorter than the one before."""

    heading: str
    forms: list[list[str]]

    def shorten(self) -> None:
        """Switch to the next form. After the last form the column is left out."""
        self.forms = self.forms[1:]

    @property
    def width(self) -> int:
        """Its width in characters, with the gap behind it; 0 if the column is left out."""
        from rich.text import Text

        if not self.forms:
            return 0
        return GAP + max(Text.from_markup(cell).cell_len for cell in [self.heading, *self.forms[0]])


def fit(columns: Sequence[Column], order: Sequence[str], width: int) -> "Table":
    """A table of `columns`, shortened in the given `order` until it is at most `width` wide.

    Columns that `order` does not name stay as they are, so the table may remain wider.
    """
    by_heading = {column.heading: column for column in columns}
    for heading in order:
        if sum(column.width for column in columns) - GAP <= width:
            break
        by_heading[heading].shorten()
    left = [column for column in columns if column.forms]
    table = plain_table(*(column.heading for column in left))
    for row in zip(*(column.forms[0] for column in left), strict=True):
        table.add_row(*row)
    return table


def jobs_table(
    records: "Sequence[JobRecord]", waits: "Mapping[str, Wait]", now: float, width: int
) -> "Table":
    """A table with one row for each job, in the given order. `now` is seconds since the epoch."""
    columns = [
        Column("JOB", [[record.id for record in records]]),
        Column("LANGUAGE", [[record.language for record in records]]),
        *_state_columns(records),
        _progress(records, waits),
        _rates(records),
        _ages(records, now),
        Column("BATCH", [[record.batch or "" for record in records]]),
    ]
    if not any(record.batch for record in records):
        columns[-1].shorten()
    return fit(columns, JOBS_ORDER, width)


def batch_table(records: "Sequence[JobRecord]", waits: "Mapping[str, Wait]", width: int) -> "Table":
    """A table with one row for each job: state, a bar over its four stages, error rates."""
    shares = [done_share(record) for record in records]
    columns = [
        Column("LANGUAGE", [[record.language for record in records]]),
        Column("JOB", [[record.id for record in records]]),
        *_state_columns(records),
        Column("DONE", [[bar(share, size) for share in shares] for size in BAR_WIDTHS]),
        _progress(records, waits),
        _rates(records),
    ]
    return fit(columns, BATCH_ORDER, width)


def done_share(record: "JobRecord") -> float:
    """The share of a job that is done, 0 to 1. All stages count the same."""
    done = 0.0
    for stage in record.stages.values():
        if stage.state == "succeeded":
            done += 1
        elif stage.state == "running" and stage.progress is not None:
            done += min(1.0, stage.progress.share)
    return done / len(record.stages)


def bar(share: float, width: int) -> str:
    """`#########-----------  45%`."""
    full = round(share * width)
    return f"{'#' * full}{'-' * (width - full)} {share:4.0%}".strip()


def _state_columns(records: "Sequence[JobRecord]") -> list[Column]:
    return [
        Column("STATE", [[coloured(state_of_work(record)) for record in records]]),
        Column("STAGE", [[current_stage(record)[0] for record in records]]),
    ]


def _progress(records: "Sequence[JobRecord]", waits: "Mapping[str, Wait]") -> Column:
    """Progress of the running stage, or what the next stage waits for."""
    whole = [current_stage(record)[1] for record in records]
    short = [words.partition(",")[0] for words in whole]
    for number, record in enumerate(records):
        if wait := waits.get(record.id):
            whole[number] = short[number] = wait.short
    return Column("PROGRESS", [whole, short])


def _ages(records: "Sequence[JobRecord]", now: float) -> Column:
    whole = [duration(now - record.created_at) for record in records]
    return Column("AGE", [whole, [" ".join(words.split()[:2]) for words in whole]])


def _rates(records: "Sequence[JobRecord]") -> Column:
    whole = [gain(record) for record in records]
    return Column("WER %", [whole, [words.rpartition(" ")[2] for words in whole]])
