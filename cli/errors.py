"""How what goes wrong reaches the user: one line on standard error and an exit code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

from lorajob.errors import FULL, LorajobError, UsageError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # as a shell reports a command that Ctrl-C ended


@dataclass
class Outcome:
    """The exit code of a command, known when it has ended."""

    code: int = 0


@contextmanager
def user_errors() -> Iterator[Outcome]:
    """Turn what a user can mend into one line on standard error and an exit code.

    UsageError and click's own complaints become 2, every other LorajobError and what the
    operating system refuses 1, Ctrl-C 130; a reader that went away is no error to speak of.
    Anything else is a bug and keeps its traceback.
    """
    outcome = Outcome()
    try:
        yield outcome
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        outcome.code = EXIT_USAGE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "lorajob"
        say_error(f"{error.format_message().rstrip('.')}; see `{command} --help`")
        outcome.code = EXIT_USAGE
    except click.ClickException as error:
        say_error(error.format_message())
        outcome.code = error.exit_code
    except UsageError as error:
        say_error(str(error))
        outcome.code = EXIT_USAGE
    except LorajobError as error:
        say_error(str(error))
        outcome.code = EXIT_FAILED
    except (click.Abort, KeyboardInterrupt):
        outcome.code = EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        outcome.code = EXIT_FAILED
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        say_error(f"{error.filename or 'writing'}: {error.strerror}")
        outcome.code = EXIT_FAILED


def say_error(message: str) -> None:
    """`lorajob: message` on standard error, in one line whatever the message holds."""
    click.echo(f"lorajob: {' '.join(message.split())}", err=True)


def _discard_stdout() -> None:
    """Let the interpreter's last flush of standard output meet no closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
