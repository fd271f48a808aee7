"""`lorajob serve`."""

import importlib.util

import click

from lorajob.cli.context import load_settings

SERVE_PORT = 8000
PACKAGES = ("fastapi", "python_multipart", "starlette", "uvicorn")  # of the extra `serve`


@click.command()
@click.option(
    "--models",
    metavar="hi,JOB,PATH",
    default="",
    help="Serve only these models, and load them at the start: languages (their promoted models), "
    "ids of jobs, and base models (a CTranslate2 or transformers folder, or a Hub id). Default: "
    "all promoted models and all jobs, loaded when a request needs them.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=SERVE_PORT,
    show_default=True,
    help="Port; 0: a free one, which is printed.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: the GPU if there is one, else the CPU.",
)
@click.option(
    "--memory-gb",
    type=click.FloatRange(min=0, min_open=True),
    help="Memory for all models. If it is full, the model that was unused longest is unloaded. "
    "Default: 70 % of this machine's memory.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Maximum number of open requests. Further requests get the status 429.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=600,
    show_default=True,
    help="Maximum time for a request after its upload. A slower one gets the status 504.",
)
@click.option(
    "--max-upload-mb",
    type=click.FloatRange(min=0, min_open=True),
    default=1024,
    show_default=True,
    help="Maximum size of a request. A larger one gets the status 413.",
)
@click.option(
    "--requests-a-minute",
    metavar="N",
    type=click.IntRange(min=1),
    help="Maximum number of requests of one key in a minute. Further ones get the status 429. "
    "Default: no limit.",
)
def serve(
    models: str,
    host: str,
    port: int,
    device: str,
    memory_gb: float | None,
    queue: int,
    timeout: float,
    max_upload_mb: float,
    requests_a_minute: int | None,
) -> None:
    """Transcribe speech over HTTP with the interface of OpenAI's audio API.

    The server runs until Ctrl-C or SIGTERM. Clients use http://HOST:PORT/v1 as their base URL. The
    `model` of a request is a language, a job, a base model, or `auto`.

    LORAJOB_API_KEY holds the keys of clients, separated by commas. Without keys, the server starts
    only on a loopback address, and accepts every request. It speaks plain HTTP: put a proxy with
    TLS in front of it. Needs the extra `serve`.
    """
    check_extra()
    from lorajob.server.run import ServeOptions, run_server
    from lorajob.server.service import Limits

    limits = Limits(queue, timeout, int(max_upload_mb * 1e6), requests_a_minute)
    names = tuple(name for it in models.split(",") if (name := it.strip()))
    options = ServeOptions(names, host, port, device, memory_gb, limits)
    run_server(load_settings(), options, _say)


def check_extra() -> None:
    """Raise ClickException if a package of the extra `serve` is not installed."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise click.ClickException(f"{name} is not installed; `pip install 'lorajob[serve]'`")


def _say(address: str) -> None:
    click.echo(f"Serving at {address}/v1; Ctrl-C stops it")
