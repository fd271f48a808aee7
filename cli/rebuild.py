"""`lorajob rebuild`."""

import click

from lorajob.cli.errors import say_error
from lorajob.cli.service import load_settings


@click.command()
def rebuild() -> None:
    """Make records of the jobs in LORAJOB_ARTIFACTS that Redis knows nothing of.

    For a Redis that lost its data. Finished stages stay finished, unfinished jobs are queued again
    and go on from their checkpoints. Prints the ids.
    """
    from lorajob.tasks.rebuild import rebuild as rebuild_records

    rebuilt = rebuild_records(load_settings())
    for job_id in rebuilt.jobs:
        click.echo(job_id)
    for problem in rebuilt.problems:
        say_error(f"not rebuilt: {problem}")
    if not rebuilt.jobs:
        click.echo("lorajob: Redis knows every job there is", err=True)
    if rebuilt.problems:
        raise SystemExit(1)
