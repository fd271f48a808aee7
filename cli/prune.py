"""`lorajob prune`."""

from typing import TYPE_CHECKING

import click

from lorajob.cli.service import open_pipeline

if TYPE_CHECKING:
    from lorajob.tasks.prune import Keep


@click.command()
@click.option("--older", required=True, metavar="AGE", help="Ended so long ago: 12h, 30d, 8w.")
@click.option(
    "--keep",
    type=click.Choice(["best", "none"]),
    default="best",
    show_default=True,
    help="best: keep the job of the lowest WER of each language and base model.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def prune(older: str, keep: "Keep", dry_run: bool) -> None:
    """Delete the files and records of jobs that ended long ago.

    Jobs that are queued or running stay. Standard output: the ids, one a line.
    """
    from lorajob.tasks.prune import parse_age
    from lorajob.tasks.prune import prune as prune_jobs

    gone = prune_jobs(open_pipeline(), parse_age(older), keep, dry_run)
    for record in gone:
        click.echo(record.id)
    word = "would go" if dry_run else "are gone"
    click.echo(f"lorajob: {len(gone)} jobs {word}", err=True)
