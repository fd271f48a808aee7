"""`lorajob report` and `lorajob compare`: pages about jobs."""

import json
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import JOB, job_of, open_client
from lorajob.errors import UsageError

if TYPE_CHECKING:
    from lorajob.reporting.comparison import Comparison


@click.command()
@click.argument("job", type=JOB)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. Default: JOB.html in the current folder.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--full", is_flag=True, help="Show every test clip with its sound. The file can be large."
)
def report(job: str, output: Path | None, show: bool, full: bool) -> None:
    """Write one HTML page about JOB, and print its path.

    The page has error rates with intervals, curves, errors by kind, length and speaker, and the
    sound of the worst clips and of those that improved or got worse most. It needs no network.
    Every job that succeeds writes it as report.html. Of any other job the stage evaluate must have
    finished.
    """
    client = open_client()
    path = output or Path(f"{client.find_id(job)}.html")
    client.job_of(job).write_report(path, full)
    click.echo(path)
    if show:
        webbrowser.open(path.resolve().as_uri())


@click.command()
@click.argument("jobs", type=JOB, metavar="JOB JOB...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page with the transcripts of all jobs to this file.",
)
def compare(jobs: tuple[str, ...], as_json: bool, html: Path | None) -> None:
    """Compare finished jobs of one language on their common test clips.

    Each job is compared with the first one. The 95 % intervals come from a paired bootstrap. If the
    interval of a difference contains zero, the difference may be chance. A single common clip has
    no interval.
    """
    if len(jobs) < 2 or len(set(jobs)) < len(jobs):
        raise UsageError("JOB: give two or more different jobs")
    first, *others = map(job_of, jobs)
    comparison = first.compare(*others)
    if html is not None:
        from lorajob.reporting.comparison import write_comparison

        write_comparison(comparison, html)
    if as_json:
        click.echo(json.dumps(comparison.as_json(), ensure_ascii=False, indent=2))
    else:
        _print_comparison(comparison)
    if html is not None:
        click.echo(f"lorajob: wrote {html}", err=True)


def _print_comparison(comparison: "Comparison") -> None:
    from lorajob.cli.format import console, plain_table
    from lorajob.reporting.compare import verdict

    screen = console(sys.stdout)
    metric, other = comparison.metrics
    table = plain_table(
        "JOB", "BASE MODEL", f"{metric.upper()} %", "INTERVAL", f"{other.upper()} %"
    )
    for row in comparison.rows:
        bounds = row.interval_of(metric)
        rates = (
            f"{row.scores.rate(metric):.1f}",
            "" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}",
            f"{row.scores.rate(other):.1f}",
        )
        table.add_row(row.job, row.base, *rates)
    screen.print(table)
    first = comparison.rows[0].job
    for row in comparison.rows[1:]:
        change = f"{first} has no errors"
        if row.change is not None:
            change = verdict(row.change, comparison.unit)
        click.echo(f"{row.job} against {first}: {change}")
    click.echo(f"compared on {len(comparison.clips)} common clips")
    for job, reason, count in comparison.left_out_reasons:
        click.echo(f"left out: {count} clip{'s' if count != 1 else ''} of {job}: {reason}")
    for name, values in comparison.settings:
        click.echo(f"{name}: {' | '.join(map(str, values))}")
