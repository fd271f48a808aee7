"""`lorajob worker`."""

import click

from lorajob.cli.service import load_settings


@click.command()
@click.option(
    "--queue",
    required=True,
    type=click.Choice(["cpu", "gpu"]),
    help="cpu: preprocess and convert. gpu: train and evaluate (on the CPU where there is no GPU).",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="Stages at a time. Default: one.",
)
def worker(queue: str, concurrency: int | None) -> None:
    """Run a worker for one queue, until Ctrl-C or SIGTERM.

    It needs the service's Redis (LORAJOB_REDIS_URL) and the same LORAJOB_ARTIFACTS, local corpora
    and local base models as every other worker. Where LORAJOB_ARTIFACTS is a url, such as
    s3://bucket/jobs, and corpora are urls too, machines need no disk in common.
    """
    from lorajob.worker.start import run_worker

    run_worker(queue, load_settings(), concurrency or 1)
