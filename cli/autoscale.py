"""`lorajob autoscale`."""

import click

from lorajob.cli.service import load_settings


@click.command()
@click.option("--min", "least", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--max", "most", type=click.IntRange(min=1), required=True)
@click.option("--queue", type=click.Choice(["cpu", "gpu"]), default="gpu", show_default=True)
@click.option(
    "--gpus",
    metavar="auto|all|0,1|none",
    help="The GPUs to share out among the workers. all: one worker on all, with --max 1. "
    "Default: auto, each that is visible.",
)
@click.option(
    "--idle",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="End a worker after so long without work. Default: LORAJOB_SCALE_DOWN_SECONDS or 120.",
)
def autoscale(least: int, most: int, queue: str, gpus: str | None, idle: float | None) -> None:
    """Start and end workers of this machine by the jobs that wait and run, until Ctrl-C or SIGTERM.

    A worker that runs a stage is never ended; idle ones end by themselves.
    """
    if least > most:
        raise click.UsageError(f"--min {least} is above --max {most}")
    if gpus is not None and queue != "gpu":
        raise click.UsageError("--gpus is for --queue gpu")
    from lorajob.worker.machine.autoscale import run_autoscale

    gpus = "auto" if gpus is None else gpus  # an empty one, of a variable that is unset, is not all
    run_autoscale(queue, load_settings(), least, most, gpus, idle)
