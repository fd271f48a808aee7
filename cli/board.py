"""`lorajob board`: the languages by their best delivered model."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorajob.cli.context import open_client

if TYPE_CHECKING:
    from rich.table import Table

    from lorajob.reporting.board import BoardRow

ORDERS: "dict[str, Callable[[BoardRow], Any]]" = {
    "language": lambda row: row.language_name,
    "rate": lambda row: row.after.rate,
    "gain": lambda row: float("inf") if row.fewer is None else -row.fewer,
    "newest": lambda row: -row.finished_at,
}
# The order in which columns are shortened.
SHORTENED = (
    "BASE",
    "JOBS",
    "CORPUS",
    "NAME",
    "FINISHED",
    "95 %",
    "CORPUS",
    "NAME",
    "LANGUAGE",
    "BASE",
    "CLIPS",
    "CORPUS",
    "NAME",
    "BEFORE",
)


@click.command()
@click.option("--lang", metavar="LANGUAGE,...", help="Only these languages.")
@click.option(
    "--sort",
    type=click.Choice(list(ORDERS)),
    default="language",
    show_default=True,
    help="rate: the lowest error rate first; gain: the largest relative improvement over the base "
    "model first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a table in Markdown.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page with a table that can be sorted to this file. It needs no network.",
)
def board(lang: str | None, sort: str, as_json: bool, as_markdown: bool, html: Path | None) -> None:
    """List each language with its best delivered model.

    The best model has the lowest WER on the test clips of its job, or the lowest CER in languages
    without spaces. A model whose gate failed is listed only if no other model of the language is
    among the best five. Jobs may have different test clips; `lorajob compare` compares them on
    common ones.
    """
    check_forms(as_json, as_markdown)
    print_board(open_client().board(lang), sort, as_json, as_markdown, html)


def check_forms(as_json: bool, as_markdown: bool) -> None:
    """Raises click.UsageError if both forms are asked for."""
    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown exclude each other")


def print_board(
    found: "Sequence[BoardRow]", sort: str, as_json: bool, as_markdown: bool, html: Path | None
) -> None:
    """Print the rows in the order `sort` of ORDERS, and write them as a page to `html`."""
    from lorajob.reporting.board import markdown, write_board

    rows = sorted(found, key=ORDERS[sort])
    if html is not None:
        write_board(rows, html)
        click.echo(f"lorajob: wrote {html}", err=True)
    if as_json:
        said = [row.model_dump(mode="json") | {"fewer": row.fewer} for row in rows]
        click.echo(json.dumps(said, ensure_ascii=False, indent=2))
    elif as_markdown:
        click.echo(markdown(rows))
    elif rows:
        from lorajob.cli.format import console

        screen = console(sys.stdout)
        screen.print(board_table(rows, screen.width))
    else:
        click.echo("lorajob: no job has a model yet; `lorajob status` lists the jobs", err=True)


def board_table(rows: "Sequence[BoardRow]", width: int) -> "Table":
    """A table with one row for each language, fitted to `width`."""
    from lorajob.cli.tables import Column, base_name, cut_column, fit
    from lorajob.reporting.board import before_text
    from lorajob.tasks.words import corpus_name

    def rate(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    def interval(row: "BoardRow") -> str:
        return "" if row.after.interval is None else "{:.1f} to {:.1f}".format(*row.after.interval)

    names = [row.language_name for row in rows]
    bases = [base_name(row.base_model) for row in rows]
    corpora = [corpus_name(row.corpus) for row in rows]
    jobs = [f"{row.job} (failed its checks)" if row.gate == "failed" else row.job for row in rows]
    columns = [
        Column("LANGUAGE", [names, [row.language for row in rows]]),
        Column("", [[row.metric.upper() for row in rows]]),
        Column("BEFORE", [[before_text(row) for row in rows], [rate(row.before) for row in rows]]),
        Column("AFTER", [[rate(row.after.rate) for row in rows]]),
        Column("95 %", [[interval(row) for row in rows]]),
        Column("CLIPS", [[str(row.clips) for row in rows]]),
        Column("JOB", [jobs]),
        cut_column("NAME", [row.name or "" for row in rows], (16, 10)),
        Column("BASE", [[base.whole for base in bases], [base.short for base in bases]]),
        cut_column("CORPUS", corpora, (16, 10)),
        Column("FINISHED", [[row.day for row in rows]]),
        Column("JOBS", [[str(row.jobs) for row in rows]]),
    ]
    return fit(columns, SHORTENED, width)
