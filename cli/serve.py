"""`lorajob serve`."""

import click

from lorajob.cli.context import load_settings


@click.command()
@click.option(
    "--models",
    metavar="hi,JOB,PATH",
    default="",
    help="Models to serve, loaded at the start: languages (their promoted models), jobs, and bases "
    "(a CTranslate2 or transformers folder, or a Hub id). Default: all promoted models, and each "
    "job by its id, loaded when they are needed.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port; 0: a free one, which is printed.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: the GPU, or the CPU if there is no GPU.",
)
@click.option(
    "--memory-gb",
    type=click.FloatRange(min=0, min_open=True),
    help="Memory for models. The longest unused are unloaded. Default: 70 % of this machine's.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Requests that are open at a time. More get the status 429.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=600,
    show_default=True,
    help="Time for one request after its upload. Then it gets the status 504.",
)
@click.option(
    "--max-upload-mb",
    type=click.FloatRange(min=0, min_open=True),
    default=1024,
    show_default=True,
    help="Largest request. A larger one gets the status 413.",
)
@click.option(
    "--requests-a-minute",
    metavar="N",
    type=click.IntRange(min=1),
    help="Transcriptions of one key in a minute. More get the status 429. Default: any number.",
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
    """Serve models over HTTP in OpenAI's interface, until Ctrl-C or SIGTERM.

    Clients use http://HOST:PORT/v1 as their base URL. Their `model` is a language, a job, a base,
    or `auto`. Keys are in LORAJOB_API_KEY, separated by commas. On a loopback address a server
    without keys accepts every request. On another address it does not start. The server speaks
    plain HTTP: put a proxy with TLS in front of it. Needs the extra `serve`.
    """
    try:
        from lorajob.server.run import ServeOptions, run_server
        from lorajob.server.service import Limits
    except ImportError as error:
        raise click.ClickException(
            f"{error.name} is not installed; `pip install 'lorajob[serve]'`"
        ) from None

    limits = Limits(queue, timeout, int(max_upload_mb * 1e6), requests_a_minute)
    names = tuple(name for it in models.split(",") if (name := it.strip()))
    options = ServeOptions(names, host, port, device, memory_gb, limits)
    run_server(load_settings(), options, _say)


def _say(address: str) -> None:
    click.echo(f"Serving at {address}/v1; Ctrl-C stops it")
