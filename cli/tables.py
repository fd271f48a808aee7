"""The tables of jobs, fitted to the terminal: less important columns are shortened or left out.

The id and the state of a job are never shortened. Other commands take the id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lorajob.cli.format import coloured, plain_table, time_taken
from lorajob.tasks.words import (
    base_model_name,
    corpus_name,
    current_stage,
    done_share,
    duration,
    gain,
    progress_words,
    state_of_work,
)

if TYPE_CHECKING:
    from rich.table import Table

    from lorajob.client.models import Waiting
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
    "AGE",
    "BASE",
    "CORPUS",
    "NAME",
    "BATCH",
    "LANGUAGE",
    "PROGRESS",
    "AGE",
    "CORPUS",
    "NAME",
    "PROGRESS",
    "WER %",
    "PROGRESS",
    "PROGRESS",
    "BASE",
    "CORPUS",
    "NAME",
    "PROGRESS",
)
STAGES_ORDER = ("WORKER", "WORKER", "ATTEMPTS", "PROGRESS", "PROGRESS")
LONGEST_WHY = 60  # characters of a failure's reason in a table; `status JOB` shows it whole


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
    records: "Sequence[JobRecord]", waits: "Mapping[str, Waiting]", now: float, width: int
) -> "Table":
    """A table with one row for each job, in the given order. `now` is seconds since the epoch.

    If there is no room for both, a job's error rates stand in its PROGRESS, which has ended then.
    """
    bases = [base_name(record.base_model) for record in records]
    columns = [
        Column("JOB", [[record.id for record in records]]),
        cut_column("NAME", [record.name or "" for record in records], (16, 10)),
        Column("LANGUAGE", [[record.language for record in records]]),
        Column("STATE", [[coloured(state_of_work(record)) for record in records]]),
        _work(records, waits),
        Column("WER %", [[gain(record) for record in records]]),
        cut_column("CORPUS", [corpus_words(record) for record in records], (16, 10)),
        Column("BASE", [[base.whole for base in bases], [base.short for base in bases]]),
        _ages(records, now),
        Column("BATCH", [[record.batch or "" for record in records]]),
    ]
    if not any(record.batch for record in records):
        columns[-1].shorten()
    return fit(columns, JOBS_ORDER, width)


def stages_table(record: "JobRecord", now: float, width: int) -> "Table":
    """One row for each stage: state, attempts, time taken, progress, worker."""
    from rich.markup import escape

    stages = record.stages.values()
    progress = [escape(progress_words(stage.progress)) for stage in stages]
    workers = [escape(stage.worker or "") for stage in stages]
    columns = [
        Column("STAGE", [list(record.stages)]),
        Column("STATE", [[coloured(stage.state) for stage in stages]]),
        Column("ATTEMPTS", [[str(stage.attempts or "") for stage in stages]]),
        Column("TIME", [[time_taken(stage, now) for stage in stages]]),
        Column("PROGRESS", [progress, [words.partition(",")[0] for words in progress]]),
        Column("WORKER", [workers, [worker.partition("@")[0] for worker in workers]]),
    ]
    return fit(columns, STAGES_ORDER, width)


def corpus_words(record: "JobRecord") -> str:
    """`cv-corpus-24-hi` for a path or url of that archive; `+1` behind it for a further corpus."""
    name = corpus_name(record.corpus)
    return f"{name}+{len(record.more_corpora)}" if record.more_corpora else name


class BaseName(NamedTuple):
    """The name of a base model, and a shorter form."""

    whole: str
    short: str


def base_name(model: str) -> BaseName:
    """`whisper-small` and `small` for openai/whisper-small or a folder of that name.

    The short form of whisper-large-v3-turbo is `turbo`; that of other names is cut.
    """
    whole = base_model_name(model)
    size = whole.removeprefix("whisper-")
    return BaseName(whole, "turbo" if size == "large-v3-turbo" else shortened(size, 10))


def shortened(text: str, width: int) -> str:
    """The text if it fits into `width` cells of a terminal, else its beginning and `…`."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"


def cut_column(heading: str, texts: list[str], widths: tuple[int, ...]) -> Column:
    """A column of texts, which are cut to each of `widths` if there is less room.

    It is left out if all texts are empty.
    """
    from rich.markup import escape

    forms = [texts, *([shortened(text, width) for text in texts] for width in widths)]
    if not any(texts):
        return Column(heading, [])
    return Column(heading, [[escape(text) for text in form] for form in forms])


def _work(records: "Sequence[JobRecord]", waits: "Mapping[str, Waiting]") -> Column:
    """Stage and progress of a running job, what a queued one waits for, why another one ended.

    The last three forms have the error rates of ended jobs, too.
    """
    from rich.markup import escape

    whole, short, least = [], [], []
    for record in records:
        stage, progress = current_stage(record)
        if record.error:
            # An error often begins with its stage.
            why = " ".join(record.error.split()).removeprefix(f"{stage}: ")
            words = shortened(f"{stage}: {why}" if stage else why, LONGEST_WHY)
            brief = last = words
        elif record.over:
            words = brief = last = ""
        else:
            wait = waits.get(record.id)
            words = f"{stage} {wait.short if wait else progress}".strip()
            brief = words.partition(",")[0]
            last = wait.short if wait else brief
        whole.append(words)
        short.append(brief)
        least.append(last)
    ended = [gain(record) for record in records]
    forms = [whole, short, [shortened(it, 28) for it in short]]
    for size, texts in ((28, short), (24, short), (18, least)):
        both = zip(texts, ended, strict=True)
        forms.append([shortened(text or rates, size) for text, rates in both])
    return Column("PROGRESS", [[escape(text) for text in form] for form in forms])


def batch_table(
    records: "Sequence[JobRecord]", waits: "Mapping[str, Waiting]", width: int
) -> "Table":
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


def bar(share: float, width: int) -> str:
    """`#########-----------  45%`."""
    full = round(share * width)
    return f"{'#' * full}{'-' * (width - full)} {share:4.0%}".strip()


def _state_columns(records: "Sequence[JobRecord]") -> list[Column]:
    return [
        Column("STATE", [[coloured(state_of_work(record)) for record in records]]),
        Column("STAGE", [[current_stage(record)[0] for record in records]]),
    ]


def _progress(records: "Sequence[JobRecord]", waits: "Mapping[str, Waiting]") -> Column:
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
    short = [
        f"{'CER ' if words.startswith('CER') else ''}{words.rpartition(' ')[2]}" for words in whole
    ]
    return Column("WER %", [whole, short])
