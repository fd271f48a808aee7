"""`lorajob logs`: print and follow the logs of a job."""

import click

from lorajob.cli.context import JOB, job_of
from lorajob.job.jobdir import STAGES


@click.command()
@click.argument("job", type=JOB)
@click.option(
    "-f", "--follow", is_flag=True, help="Print new lines as they come, until the job ends."
)
@click.option("--stage", type=click.Choice(STAGES), help="Only this stage's log.")
def logs(job: str, follow: bool, stage: str | None) -> None:
    """Print the logs of JOB's stages, from preprocess to convert."""
    printed = False
    for text in job_of(job).logs(stage, follow):
        click.echo(text, nl=False)
        printed = True
    if not printed:
        click.echo(f"lorajob: {job} has written no log yet", err=True)
