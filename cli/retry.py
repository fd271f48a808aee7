"""`lorajob retry`."""

import click

from lorajob.cli.context import check_job_id, is_batch
from lorajob.cli.service import open_pipeline


@click.command()
@click.argument("job")
@click.option("--failed", is_flag=True, help="Of a BATCH: leave cancelled jobs as they are.")
def retry(job: str, failed: bool) -> None:
    """Queue the stages that JOB, or each job of a BATCH, has not finished again.

    Training goes on from its checkpoint. Jobs that succeeded or are under way stay as they are.
    """
    if is_batch(job):
        from lorajob.tasks.batches import retry_batch

        count = len(retry_batch(open_pipeline(), check_job_id(job), failed))
        click.echo(f"{count} of the jobs of {job} are queued again")
        return
    open_pipeline().retry(job)
    click.echo(f"{job} is queued again")
