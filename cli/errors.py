"""How errors reach the user: as one line on standard error and an exit code."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

from lorajob.errors import FULL, LorajobError, UsageError
from lorajob.visible import VisibleStream, raw_stream, visible

# What the kernel says of a disk or a share that fails, without the name of the file.
FAILING = (errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.EUCLEAN)
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended


@dataclass
class Outcome:
    """The exit code of a command, set when it has ended."""

    code: int = 0


@contextmanager
def user_errors() -> Iterator[Outcome]:
    """Turn errors that a user can fix into one line on standard error and an exit code.

    2: UsageError and click's usage errors. 1: every other LorajobError, and refusals of the
    operating system. 130: Ctrl-C. A closed standard output gives 1 without a message. Anything
    else is a bug and keeps its traceback.
    """
    outcome = Outcome()
    try:
        yield outcome
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        outcome.code = EXIT_USAGE
    except click.NoSuchOption as error:
        command = error.ctx.command_path if error.ctx else "lorajob"
        say_error(f"{_unknown_option(error)}; see `{command} --help`")
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
        if error.filename is None and error.errno not in (*FULL, *FAILING):
            raise
        doing = "writing" if error.errno in FULL else "reading or writing"
        say_error(f"{error.filename or doing}: {error.strerror}")
        outcome.code = EXIT_FAILED


@contextmanager
def visible_output() -> Iterator[None]:
    """Within the block, standard output and error show control characters as text."""
    before = sys.stdout, sys.stderr
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        setattr(sys, name, VisibleStream(raw_stream(stream)))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def say_error(message: str) -> None:
    """Print `lorajob: message` on standard error. Line breaks become spaces."""
    click.echo(f"lorajob: {visible(' '.join(message.split()))}", err=True)


def _unknown_option(error: click.NoSuchOption) -> str:
    """`No such option: --language; did you mean --lang?`, also for a setting of a job."""
    command = error.ctx.command if error.ctx else None
    options = [name for it in command.params for name in it.opts] if command else []
    flags = [name for name in options if name.startswith("--")]
    from lorajob.setting_words import advice_for, near_options, similar_option

    name = "submit" if "--set" in flags else (command.name or "") if command else ""
    if said := advice_for(error.option_name, name):
        return f"No such option: {error.option_name}; {said}"
    if "--set" in flags:
        from lorajob.cli.spec_options import settings_in_help

        hint = similar_option(error.option_name, flags, settings_in_help())
    else:
        hint = " or ".join(near_options(error.option_name, flags))
    return f"No such option: {error.option_name}" + (f"; did you mean {hint}?" if hint else "")


def _discard_stdout() -> None:
    """Redirect standard output to /dev/null, so that the last flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
