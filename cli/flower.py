"""`lorajob flower`."""

import click

from lorajob.cli.service import load_settings


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5555, show_default=True)
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="Interface to listen on. Any other than loopback should have TLS in front of it.",
)
def flower(port: int, address: str) -> None:
    """Run Flower, the monitor of tasks and workers, until Ctrl-C.

    It asks for LORAJOB_FLOWER_USER (lorajob) and LORAJOB_FLOWER_PASSWORD.
    """
    from lorajob.worker.machine.launch import run_flower

    run_flower(load_settings(), port, address)
