"""`lorajob cancel`."""

import click

from lorajob.cli.context import check_job_id, is_batch
from lorajob.cli.service import open_pipeline


@click.command()
@click.argument("job")
def cancel(job: str) -> None:
    """Stop JOB, or all jobs of a BATCH, keeping checkpoints; `lorajob retry` goes on from there."""
    if is_batch(job):
        from lorajob.tasks.batches import cancel_batch

        count = len(cancel_batch(open_pipeline(), check_job_id(job)))
        click.echo(f"{count} of the jobs of {job} are stopping")
        return
    open_pipeline().cancel(job)
    click.echo(f"{job} is stopping")
