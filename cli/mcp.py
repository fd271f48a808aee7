"""`lorajob mcp`."""

import sys

import click

from lorajob.cli.context import load_settings
from lorajob.errors import UsageError


@click.command()
@click.pass_context
def mcp(ctx: click.Context) -> None:
    """Serve tools to an agent over standard input and output: the Model Context Protocol.

    An agent's program starts it: Claude Code, Cursor, VS Code and others. The tools check a corpus,
    forecast, submit, follow, compare and promote jobs, and transcribe. With LORAJOB_URL and
    LORAJOB_API_KEY they use that server, else the service of this machine.

    `lorajob web` serves the same tools over HTTP, at /mcp, with its keys. docs/agents.md shows how
    agents are set up. Needs the extra `mcp`.
    """
    try:
        from lorajob.server.agents.stdio import run_stdio
    except ImportError as error:
        raise click.ClickException(
            f"{error.name} is not installed; `pip install 'lorajob[mcp]'`"
        ) from None

    settings = load_settings()
    # Python sets it so if the descriptor is closed.
    if sys.stdin is None:
        raise UsageError("standard input is closed; an agent's program starts `lorajob mcp`")
    if sys.stdin.isatty():
        said = "lorajob: waits for an agent on standard input; docs/agents.md shows the setup"
        click.echo(said, err=True)
    ctx.exit(run_stdio(settings))
