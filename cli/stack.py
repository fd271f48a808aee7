"""`lorajob up` and `lorajob down`: the whole service on this machine."""

import click

from lorajob.cli.service import load_settings


@click.command()
@click.option("--detach", is_flag=True, help="Go to the background once all is up.")
@click.option("--no-flower", is_flag=True, help="Start no Flower.")
def up(detach: bool, no_flower: bool) -> None:
    """Start Redis, a cpu worker, a gpu worker and Flower on this machine.

    Ctrl-C, or `lorajob down` from anywhere, stops all of it. With LORAJOB_REDIS_URL set that
    Redis is used and none is started. Ports, passwords and process ids are kept in
    LORAJOB_HOME/up.json, which only you can read; all other commands find the service there.
    """
    from lorajob.worker.stack import Stack

    Stack(load_settings()).up(detach=detach, flower=not no_flower)


@click.command()
def down() -> None:
    """Stop what `lorajob up` started, and nothing else; queued jobs are kept."""
    from lorajob.worker.stack import Stack

    Stack(load_settings()).down()
