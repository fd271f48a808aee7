"""`lorajob mcp`."""

import sys

import click

from lorajob.cli.context import load_settings


@click.command()
def mcp() -> None:
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
    if sys.stdin.isatty():
        said = "lorajob: waits for an agent on standard input; docs/agents.md shows the setup"
        click.echo(said, err=True)
    run_stdio(settings)
