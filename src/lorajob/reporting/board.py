"""The board: the best delivered model of each language, as a page, as JSON and as Markdown."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lorajob.visible import visible

NOTE = (
    "Rates are of the delivered model on the test clips of its own job. Jobs of one language may "
    "have other test clips; `lorajob compare` compares them on common ones."
)


class BoardRate(BaseModel):
    """An error rate in percent, with its 95 % interval if it was measured."""

    model_config = ConfigDict(frozen=True)

    rate: float
    interval: tuple[float, float] | None = None


class BoardRow(BaseModel):
    """The best model of a language. `before` and `after` are of `metric`.

    `before` may be of fewer clips, the first ones of `after`.
    """

    model_config = ConfigDict(frozen=True)

    language: str  # code
    language_name: str
    metric: str  # wer or cer, by which the models of the language are compared
    before: float | None  # of the base model, percent
    before_clips: int | None = None
    after_on_before_clips: float | None = None  # the rate of the delivered model on these
    after: BoardRate
    wer: float
    cer: float
    clips: int
    job: str
    name: str | None
    base_model: str
    corpus: str
    gate: str | None  # passed or failed; None: not checked
    finished_at: float  # seconds since the epoch
    jobs: int  # of the language, that have a delivered model

    @property
    def fewer(self) -> float | None:
        """How many errors fewer than the base model, in percent of its errors, on its clips."""
        there = self.after_on_before_clips
        after = self.after.rate if there is None else there
        return 100 * (1 - after / self.before) if self.before else None

    @property
    def fewer_clips(self) -> int | None:
        """The clips of the base model, if it was decoded on fewer."""
        return self.before_clips if self.before_clips != self.clips else None

    @property
    def day(self) -> str:
        return datetime.fromtimestamp(self.finished_at, UTC).strftime("%Y-%m-%d")


def markdown(rows: Sequence[BoardRow]) -> str:
    """A table in GitHub's Markdown."""
    lines = [
        "| language | model | base | corpus | metric | before | after | 95 % | clips | day |",
        "| --- | --- | --- | --- | --- | ---: | ---: | --- | ---: | --- |",
    ]
    for row in rows:
        low_high = row.after.interval
        cells = [
            f"{row.language_name} ({row.language})",
            f"{row.job} ({row.name})" if row.name else row.job,
            row.base_model,
            row.corpus,
            row.metric.upper(),
            before_text(row),
            f"{row.after.rate:.1f}",
            "" if low_high is None else f"{low_high[0]:.1f} to {low_high[1]:.1f}",
            str(row.clips),
            row.day,
        ]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join([*lines, "", NOTE])


def before_text(row: BoardRow) -> str:
    """The rate of the base model, with its clips if they are fewer; empty if it is unknown."""
    if row.before is None:
        return ""
    few = row.fewer_clips
    return f"{row.before:.1f}" if few is None else f"{row.before:.1f} ({few:,} clips)"


def _cell(text: str) -> str:
    """Text of a table's cell. What Markdown or HTML would take for markup is escaped."""
    for sign in "\\|`*_<>[]&":
        text = text.replace(sign, f"\\{sign}")
    return visible(" ".join(text.split()))


def write_board(rows: Sequence[BoardRow], path: Path) -> None:
    """Write the board as one HTML file, whose table can be sorted by each column."""
    # They load Altair, which the table, JSON and Markdown do without.
    from lorajob.reporting.charts import bars_with_intervals
    from lorajob.reporting.html import fill, write_page

    chart = bars_with_intervals(
        [
            (f"{row.language_name}, {row.metric.upper()}", row.after.rate, *_bounds(row.after))
            for row in rows
        ],
        "error rate, %",
    )
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    write_page(path, fill("board.html", {"rates": chart}, rows=rows, note=NOTE, made=made))


def _bounds(rate: BoardRate) -> tuple[float, float]:
    return rate.interval or (rate.rate, rate.rate)
