"""What compose file and manifests have in common: command lines, settings, what is to come."""

from collections.abc import Iterable
from pathlib import Path

import click

from lorajob.cli.main import cli
from lorajob.worker.settings import Settings

ROOT = Path(__file__).parents[2]

# Used by the deployment before it exists. A test says when something must be taken from here.
COMMANDS_COMING: set[str] = set()
OPTIONS_COMING: set[tuple[str, str]] = set()  # each with one value
SETTINGS_COMING: set[str] = set()
EXTRAS_COMING: set[str] = set()


def parse(line: list[str]) -> None:
    """Parse the arguments of `lorajob` as click does, running nothing. Raises click.UsageError."""
    name, arguments = line[0], line[1:]
    if name in COMMANDS_COMING:
        return
    for coming, option in OPTIONS_COMING:
        if coming == name and option in arguments:
            at = arguments.index(option)
            arguments = arguments[:at] + arguments[at + 2 :]
    context = click.Context(cli)
    command = cli.get_command(context, name)
    if command is None:
        raise click.UsageError(f"{name} is no command")
    command.make_context(name, arguments, parent=context)


def options(name: str) -> set[str]:
    """Every option of a command that exists."""
    command = cli.get_command(click.Context(cli), name)
    return (
        {option for parameter in command.params for option in parameter.opts} if command else set()
    )


def settings() -> set[str]:
    """The LORAJOB_* variables that mean something."""
    return {f"LORAJOB_{name.upper()}" for name in Settings.model_fields} | SETTINGS_COMING


def unknown_settings(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith("LORAJOB_")} - settings()
