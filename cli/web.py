"""`lorajob web`."""

import sys
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import load_settings

if TYPE_CHECKING:
    from lorajob.server.web.state import WebService


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port; 0: a free one, which is printed.",
)
@click.option(
    "--max-upload-mb",
    type=click.FloatRange(min=0, min_open=True),
    default=1024,
    show_default=True,
    help="Maximum size of an audio file that a page is given.",
)
def web(host: str, port: int, max_upload_mb: float) -> None:
    """Serve pages about jobs, and the REST API, until Ctrl-C or SIGTERM. `lorajob up` does, too.

    The first start makes a password, prints it once to a terminal, and keeps it in
    LORAJOB_HOME/web/access.json, which only you can read. Programs send a key: LORAJOB_SUBMIT_KEYS
    and LORAJOB_VIEW_KEYS hold them, such as ana=KEY,KEY. A view key only reads.

    On other machines, LORAJOB_URL and LORAJOB_API_KEY make `lorajob` use this server in place of
    Redis. The server speaks plain HTTP: put a proxy with TLS in front of it. Needs the extra `web`.
    """
    try:
        from lorajob.server.web.run import WebOptions, run_web
    except ImportError as error:
        raise click.ClickException(
            f"{error.name} is not installed; `pip install 'lorajob[web]'`"
        ) from None

    run_web(load_settings(), WebOptions(host, port, int(max_upload_mb * 1e6)), _say)


def _say(address: str, service: "WebService") -> None:
    from lorajob.server.web.run import password_place

    click.echo(f"Pages at {address}; Ctrl-C stops it")
    # A log must not hold it.
    if service.made_password is not None and sys.stderr.isatty():
        click.echo(f"Password: {service.made_password}", err=True)
    click.echo(f"lorajob: the password is in {password_place(service)}", err=True)
