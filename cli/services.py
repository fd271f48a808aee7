"""`lorajob up`, `down`, `worker`, `autoscale`, `flower`, `metrics`: long-running processes."""

import sys
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import load_settings
from lorajob.cli.serve import SERVE_PORT, check_extra

if TYPE_CHECKING:
    from lorajob.worker.stack.info import StackInfo


def pool_sizes(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Parse `MAX,MIN` as (MAX, MIN)."""
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
    help="cpu: the stages preprocess and convert. gpu: train and evaluate; without a GPU they "
    "run on the CPU.",
)
@click.option(
    "--concurrency", type=click.IntRange(min=1), help="Stages to run at a time. Default: 1."
)
@click.option(
    "--autoscale",
    metavar="MAX,MIN",
    callback=pool_sizes,
    help="cpu queue only: run up to MAX stages at a time, as jobs need them, and keep MIN "
    "processes.",
)
@click.option(
    "--gpus",
    metavar="auto|all|0,1|none",
    help="gpu queue only. A list such as 0,1 (numbers, UUIDs or MIG ids): one worker for each of "
    "these GPUs. auto (default): one for each visible GPU, or one on the CPU if there is no GPU. "
    "all: one worker that trains each job on all GPUs. none: one worker on the CPU.",
)
@click.option(
    "--exit-when-idle",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="End after this many seconds without work. Default: never.",
)
def worker(
    queue: str,
    concurrency: int | None,
    autoscale: tuple[int, int] | None,
    gpus: str | None,
    exit_when_idle: float | None,
) -> None:
    """Run a worker for one queue, or one for each GPU, until Ctrl-C or SIGTERM.

    A worker needs the service's Redis (LORAJOB_REDIS_URL) and the same LORAJOB_ARTIFACTS as all
    other workers. If that is a folder, all machines need the same corpora and base models at the
    same paths, for example on a shared disk. If it is a URL, such as s3://bucket/jobs, no shared
    disk is needed: `submit` uploads local corpora to it.
    """
    if autoscale and concurrency:
        raise click.UsageError("--autoscale and --concurrency exclude each other")
    if autoscale and queue != "cpu":
        raise click.UsageError("--autoscale is for --queue cpu; see `lorajob autoscale` for gpu")
    if gpus is not None and queue != "gpu":
        raise click.UsageError("--gpus is for --queue gpu")
    from lorajob.worker.machine.launch import WorkerOptions, run_worker

    # An empty value, perhaps from an unset shell variable, does not mean auto.
    gpus = "auto" if gpus is None else gpus
    options = WorkerOptions(concurrency or 1, autoscale, gpus, exit_when_idle)
    run_worker(queue, load_settings(), options)


@click.command()
@click.option(
    "--min",
    "least",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Minimum number of workers.",
)
@click.option(
    "--max", "most", type=click.IntRange(min=1), required=True, help="Maximum number of workers."
)
@click.option(
    "--queue",
    type=click.Choice(["cpu", "gpu"]),
    default="gpu",
    show_default=True,
    help="Queue of the workers.",
)
@click.option(
    "--gpus",
    metavar="auto|all|0,1|none",
    help="gpu queue only: GPUs to divide among the workers, such as 0,1. auto (default): each "
    "visible GPU. all: one worker on all GPUs; it needs --max 1. none: the CPU.",
)
@click.option(
    "--idle",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="End a worker after this many seconds without work. Default: LORAJOB_SCALE_DOWN_SECONDS, "
    "or 120.",
)
def autoscale(least: int, most: int, queue: str, gpus: str | None, idle: float | None) -> None:
    """Start workers on this machine as jobs need them, until Ctrl-C or SIGTERM.

    Idle workers end by themselves. A worker that runs a stage is never ended.
    """
    if least > most:
        raise click.UsageError(f"--min {least} is above --max {most}")
    if gpus is not None and queue != "gpu":
        raise click.UsageError("--gpus is for --queue gpu")
    from lorajob.worker.machine.autoscale import run_autoscale

    # An empty value, perhaps from an unset shell variable, does not mean auto.
    gpus = "auto" if gpus is None else gpus
    run_autoscale(queue, load_settings(), least, most, gpus, idle)


@click.command()
@click.option(
    "--detach", is_flag=True, help="Run in the background. The command returns when all is ready."
)
@click.option("--no-flower", is_flag=True, help="Do not start Flower.")
@click.option("--no-web", is_flag=True, help="Do not start `lorajob web`.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of `lorajob web`. It is kept for the next `up`. Default: the one before, at first a "
    "free one.",
)
@click.option(
    "--serve",
    is_flag=True,
    help="Also run `lorajob serve` with all promoted models on 127.0.0.1. Needs the extra `serve`.",
)
@click.option(
    "--serve-port",
    metavar="PORT",
    type=click.IntRange(1, 65535),
    help="Port of --serve, which it implies. Default: 8000.",
)
def up(
    detach: bool,
    no_flower: bool,
    no_web: bool,
    port: int | None,
    serve: bool,
    serve_port: int | None,
) -> None:
    """Start Redis, a cpu worker, a gpu worker, Flower and `lorajob web` on this machine.

    Ctrl-C, or `lorajob down` in any terminal, stops all of them. If LORAJOB_REDIS_URL is set, they
    use that Redis, and no other is started. Ports, passwords and process ids are stored in
    LORAJOB_HOME/up.json, which only you can read. All other commands find the service there.
    """
    from lorajob.worker.connect import shown
    from lorajob.worker.stack.info import is_up
    from lorajob.worker.stack.services import keep_web_port
    from lorajob.worker.stack.stack import Stack

    settings = load_settings()
    if serve and serve_port is None:
        serve_port = SERVE_PORT
    if serve_port is not None:
        check_extra()

    def say_ready(info: "StackInfo") -> None:
        click.echo(f"Redis   {shown(info.redis_url)}")
        if info.flower_url:
            where = settings.home / "up.json"
            click.echo(f"Flower  {info.flower_url}, user {info.flower_user}, password in {where}")
        if info.web_url:
            where = settings.home / "web" / "access.json"
            click.echo(f"Pages   {info.web_url}, password in {where}")
        elif not no_web:
            click.echo("Pages   need `pip install 'lorajob[web]'`")
        if info.serve_url:
            click.echo(f"Serve   {info.serve_url}/v1")
        click.echo(f"Logs    {settings.home / 'log'}")
        click.echo("Ready; `lorajob down` stops it" if detach else "Ready; Ctrl-C stops it")
        sys.stdout.flush()

    # A stack that is up may have this port. Starting another one says that it is up.
    if port is not None and not is_up(settings.home.expanduser()):
        keep_web_port(settings.home.expanduser(), port)
    Stack(settings).up(detach, not no_flower, say_ready, not no_web, serve_port)


@click.command()
def down() -> None:
    """Stop everything that `lorajob up` started. Queued jobs are kept.

    A running job saves a checkpoint and goes back to its queue.
    """
    from lorajob.worker.stack.stack import Stack

    click.echo("stopped" if Stack(load_settings()).down() else "nothing is up")


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5555, show_default=True)
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. The server speaks plain HTTP: if the address is not loopback, put "
    "a proxy with TLS in front of it.",
)
def flower(port: int, address: str) -> None:
    """Run Flower, the monitor of tasks and workers, until Ctrl-C.

    Flower asks for a user and a password: LORAJOB_FLOWER_USER (default lorajob) and
    LORAJOB_FLOWER_PASSWORD.
    """
    from lorajob.worker.machine.launch import run_flower

    run_flower(load_settings(), port, address)


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9808, show_default=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. The server speaks plain HTTP: if the address is not loopback, put "
    "a proxy with TLS in front of it.",
)
@click.option("--insecure", is_flag=True, help="Allow any address without a password.")
def metrics(port: int, host: str, insecure: bool) -> None:
    """Serve the service's metrics to Prometheus at /metrics, until Ctrl-C.

    One exporter covers all workers and jobs, because it reads Redis. If LORAJOB_METRICS_PASSWORD
    is set, /metrics requires it, as a bearer token or as basic auth of the user lorajob. It
    must be set if the address is not loopback, unless --insecure is given. /healthz never requires
    it.
    """
    from lorajob.worker.monitoring.exporter import run_exporter

    run_exporter(load_settings(), host, port, insecure)
