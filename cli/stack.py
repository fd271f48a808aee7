"""`lorajob up` and `lorajob down`: the whole service on this machine."""

import sys
from typing import TYPE_CHECKING

import click

from lorajob.cli.service import load_settings

if TYPE_CHECKING:
    from lorajob.worker.stack.info import StackInfo


@click.command()
@click.option("--detach", is_flag=True, help="Go to the background once all is up.")
@click.option("--no-flower", is_flag=True, help="Start no Flower.")
def up(detach: bool, no_flower: bool) -> None:
    """Start Redis, a cpu worker, a gpu worker and Flower on this machine.

    Ctrl-C, or `lorajob down` from anywhere, stops all of it. With LORAJOB_REDIS_URL set that
    Redis is used and none is started. Ports, passwords and process ids are kept in
    LORAJOB_HOME/up.json, which only you can read; all other commands find the service there.
    """
    from lorajob.worker.connect import shown
    from lorajob.worker.stack.stack import Stack

    settings = load_settings()

    def say_ready(info: "StackInfo") -> None:
        click.echo(f"Redis   {shown(info.redis_url)}")
        if info.flower_url:
            where = settings.home / "up.json"
            click.echo(f"Flower  {info.flower_url}, user {info.flower_user}, password in {where}")
        click.echo(f"Logs    {settings.home / 'log'}")
        click.echo("Ready; `lorajob down` stops it" if detach else "Ready; Ctrl-C stops it")
        sys.stdout.flush()

    Stack(settings).up(detach=detach, flower=not no_flower, on_ready=say_ready)


@click.command()
def down() -> None:
    """Stop what `lorajob up` started, and nothing else; queued jobs are kept."""
    from lorajob.worker.stack.stack import Stack

    click.echo("stopped" if Stack(load_settings()).down() else "nothing is up")
