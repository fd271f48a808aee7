"""`lorajob worker`."""

import click

from lorajob.cli.service import load_settings


def pool_sizes(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """(MAX, MIN) of `MAX,MIN`."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is not MAX,MIN, such as 4,0")
    most, least = map(int, parts)
    if most < 1 or least > most:
        raise click.BadParameter(f"{text!r}: MAX must be at least 1 and MIN")
    return most, least


@click.command()
@click.option(
    "--queue",
    required=True,
    type=click.Choice(["cpu", "gpu"]),
    help="cpu: preprocess and convert. gpu: train and evaluate (on the CPU where there is no GPU).",
)
@click.option("--concurrency", type=click.IntRange(min=1), help="Stages at a time. Default: one.")
@click.option(
    "--autoscale",
    metavar="MAX,MIN",
    callback=pool_sizes,
    help="Of the cpu queue: as many stages at a time as wait, within these.",
)
@click.option(
    "--gpus",
    metavar="auto|all|0,1|none",
    help="Of the gpu queue: a worker for each of these GPUs (numbers, UUIDs or MIG ids). "
    "all: one worker that trains each job on all of them. none: the CPU. "
    "Default: auto, each that is visible, and the CPU where there are none.",
)
@click.option(
    "--exit-when-idle",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="End after so long without work. Default: never.",
)
def worker(
    queue: str,
    concurrency: int | None,
    autoscale: tuple[int, int] | None,
    gpus: str | None,
    exit_when_idle: float | None,
) -> None:
    """Run a worker for one queue, or one for each GPU, until Ctrl-C or SIGTERM.

    It needs the service's Redis (LORAJOB_REDIS_URL) and the same LORAJOB_ARTIFACTS, local corpora
    and local base models as every other worker. Where LORAJOB_ARTIFACTS is a url, such as
    s3://bucket/jobs, `submit` brings local corpora there, and machines need no disk in common.
    """
    if autoscale and concurrency:
        raise click.UsageError("--autoscale and --concurrency exclude each other")
    if autoscale and queue != "cpu":
        raise click.UsageError("--autoscale is for --queue cpu; see `lorajob autoscale` for gpu")
    if gpus is not None and queue != "gpu":
        raise click.UsageError("--gpus is for --queue gpu")
    from lorajob.worker.machine.launch import WorkerOptions, run_worker

    gpus = "auto" if gpus is None else gpus  # an empty one, of a variable that is unset, is not all
    options = WorkerOptions(concurrency or 1, autoscale, gpus, exit_when_idle)
    run_worker(queue, load_settings(), options)
