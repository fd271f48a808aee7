"""Builds the index of many terms in a process of its own, beside one that decodes.

    python -m lorajob.book.apart FILE LANGUAGE    writes the tables to standard output

FILE is - for the content of a file on standard input: terms of a request, which waits for them.

In the same process, building would keep Python's lock from the threads that decode. The process for
a file has a lower priority, so on a busy machine decoding comes first.
"""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import BadZipFile

from lorajob.book.index import TermIndex
from lorajob.book.tables import Tables, make_tables
from lorajob.book.terms import GlossaryError, decode_glossary
from lorajob.errors import LorajobError, first_line

PYTHON = sys.executable
LOWER_PRIORITY = 10  # nice
BUILD_SECONDS = 900.0  # at most. A large index takes some 10 s of a free core.
MALFORMED, MISSING = 3, 4  # exit codes: the message is on standard output


class BuildError(LorajobError):
    """The process that builds an index failed. Another try may succeed."""


class BuildStoppedError(BuildError):
    """The process was killed, perhaps because memory ran out, or took too long."""


def build_apart(source: Path | bytes, language: str) -> TermIndex:
    """The index of a glossary's file, or of the content of one, built by another process.

    Raises GlossaryError for a malformed file, OSError for one that cannot be read, and BuildError,
    which is BuildStoppedError if the same work here may fail as well.
    """
    name, given = ("-", source) if isinstance(source, bytes) else (str(source), b"")
    command = [PYTHON, "-m", "lorajob.book.apart", name, language]
    # The logs of this process are on standard error.
    try:
        done = subprocess.run(
            command,
            input=given,
            stdout=subprocess.PIPE,
            check=False,
            timeout=BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        said = f"the process that builds its index took over {BUILD_SECONDS:.0f} s"
        raise BuildStoppedError(said) from error
    if done.returncode == 0:
        try:
            return TermIndex.of(Tables.from_bytes(done.stdout), language)
        except (BadZipFile, EOFError, KeyError, ValueError) as error:
            said = f"the process that builds its index wrote no tables: {first_line(error)}"
            raise BuildError(said) from error
    if done.returncode < 0:
        said = f"signal {-done.returncode} ended the process that builds its index"
        raise BuildStoppedError(said)
    if done.returncode in (MALFORMED, MISSING):
        said = done.stdout.decode(errors="replace")
        raise GlossaryError(said) if done.returncode == MALFORMED else OSError(said)
    raise BuildError(f"the process that builds its index ended with {done.returncode}")


def main(path: str, language: str) -> int:
    """Write the tables of a file's terms, or what is wrong with it, to standard output."""
    if path != "-":
        os.nice(LOWER_PRIORITY)
    try:
        given = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        written = make_tables(decode_glossary(given), language).to_bytes()
    except GlossaryError as error:
        sys.stdout.write(first_line(error))
        return MALFORMED
    except OSError as error:
        sys.stdout.write(first_line(error))
        return MISSING
    try:
        sys.stdout.buffer.write(written)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the process that asked has ended
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
