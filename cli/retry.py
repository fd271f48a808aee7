"""`lorajob retry`."""

import click

from lorajob.cli.service import open_pipeline


@click.command()
@click.argument("job")
def retry(job: str) -> None:
    """Queue the stages that JOB has not finished again; training goes on from its checkpoint."""
    open_pipeline().retry(job)
    click.echo(f"{job} is queued again")
