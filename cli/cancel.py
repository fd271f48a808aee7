"""`lorajob cancel`."""

import click

from lorajob.cli.service import open_pipeline


@click.command()
@click.argument("job")
def cancel(job: str) -> None:
    """Stop JOB, keeping its checkpoints; `lorajob retry` goes on from there."""
    open_pipeline().cancel(job)
    click.echo(f"{job} is stopping")
