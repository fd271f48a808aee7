"""`lorajob glossary`: terms that `lorajob serve` listens for."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import open_client
from lorajob.errors import UsageError

if TYPE_CHECKING:
    from lorajob.book.terms import Glossary
    from lorajob.tasks.glossaries import GlossaryChange

MOST_BYTES = 64 << 20  # of a file
STDIN = "-"
OWNER = "LANG_OR_JOB"


@click.group()
def glossary() -> None:
    """Add, list or remove terms that `lorajob serve` listens for.

    A glossary belongs to a language, or to the model of one job. It holds names and terms that no
    training audio taught. `serve` uses it for every request to the language or the model, from the
    next request on.
    """


@glossary.command(
    "add",
    epilog="""\b
A file, with a term a line, and how it sounds behind a tab:
  Nairobi
  DGX Spark<TAB>dee jee ex spark|डी जी एक्स स्पार्क
  # a comment
\b
Examples:
  lorajob glossary add hi terms.txt
  printf '%s\\n' Zoho Freshworks | lorajob glossary add Tamil -
""",
)
@click.argument("owner", metavar=OWNER)
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: name, added, changed, terms.")
def add_terms(owner: str, file: str, as_json: bool) -> None:
    """Add the terms of FILE to those of a language or a job. `-` is standard input.

    A term is up to 100 characters long, and a glossary has up to 100,000 terms. Terms that are
    there stay. If one line is wrong, nothing is added.
    """
    made = open_client().glossaries.add(owner, read_terms(file))
    if as_json:
        _print_json(made.model_dump(exclude={"removed"}))
        return
    other = f", {made.changed:,} with more sounds" if made.changed else ""
    click.echo(f"{made.name}: {made.added:,} new{other}, {_terms(made.terms)} in all")


@glossary.command("list")
@click.argument("owner", metavar=f"[{OWNER}]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_terms(owner: str | None, as_json: bool) -> None:
    """List the glossaries, or the terms of one language or job.

    The terms are printed as `lorajob glossary add` reads them.

    \b
    --json prints a list of objects:
      glossaries  name, of (language or job), terms (how many), damaged (what is wrong, or null)
      terms       text, sounds
    """
    if owner is None:
        _list_all(as_json)
        return
    found = open_client().glossaries.get(owner)
    if as_json:
        _print_json([{"text": it.text, "sounds": list(it.sounds)} for it in found.terms])
    elif found.terms:
        click.echo(found.text(), nl=False)
    else:
        click.echo(f"lorajob: {owner}: has no glossary", err=True)


def _list_all(as_json: bool) -> None:
    found = open_client().glossaries.list()
    if as_json:
        _print_json([it.model_dump() for it in found])
        return
    if not found:
        text = "lorajob: there is no glossary; `lorajob glossary add LANG FILE` makes one"
        click.echo(text, err=True)
        return
    from lorajob.cli.format import console, plain_table

    table = plain_table("NAME", "OF", "TERMS")
    table.columns[-1].justify = "right"
    for it in found:
        table.add_row(it.name, it.of, "damaged" if it.damaged else f"{it.terms:,}")
    console(sys.stdout).print(table)
    for it in found:
        if it.damaged:
            click.echo(f"lorajob: {it.damaged}", err=True)


@glossary.command("remove")
@click.argument("owner", metavar=OWNER)
@click.argument("terms", metavar="[TERM...]", nargs=-1)
@click.option("--all", "whole", is_flag=True, help="Remove the whole glossary.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: name, removed, terms.")
def remove_terms(owner: str, terms: tuple[str, ...], whole: bool, as_json: bool) -> None:
    """Remove TERMs from the glossary of a language or a job, or all with --all.

    If one of the terms is not in the glossary, none is removed.
    """
    if whole == bool(terms):
        raise UsageError("TERM: name the terms to remove, or give --all")
    kept = open_client().glossaries
    made = kept.remove_all(owner) if whole else kept.remove(owner, terms)
    if as_json:
        _print_json(made.model_dump(include={"name", "removed", "terms"}))
    else:
        click.echo(_removed(made))


def _removed(made: "GlossaryChange") -> str:
    return f"{made.name}: {made.removed:,} removed, {_terms(made.terms)} in all"


def _terms(count: int) -> str:
    return f"{count:,} term{'' if count == 1 else 's'}"


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def read_terms(file: str, place: str = "FILE") -> "Glossary":
    """The terms of a file; `-` is standard input. Raises UsageError, which names file and line.

    `place` is the argument or option that named the file.
    """
    from lorajob.book.terms import GlossaryError, decode_glossary

    name = "standard input" if file == STDIN else file
    try:
        found = decode_glossary(_read(file, place))
    except GlossaryError as error:
        raise UsageError(f"{name}: {error}") from None
    if not found.terms:
        raise UsageError(f"{name}: has no terms; give a term a line, without `#` before it")
    return found


def _read(file: str, place: str) -> bytes:
    if file == STDIN:
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        try:
            path = Path(file).expanduser()
        except RuntimeError:
            raise UsageError(f"{place}: {file!r} begins with the home of an unknown user") from None
        if path.is_dir():
            raise UsageError(f"{place}: {file!r} is a folder; give a text file with a term a line")
        if not path.exists():
            raise UsageError(f"{place}: {file!r} does not exist")
        try:
            with path.open("rb") as opened:
                data = opened.read(MOST_BYTES + 1)
        except OSError as error:
            raise UsageError(
                f"{place}: {file!r} cannot be read ({error.strerror}); give a file that can"
            ) from None
    if len(data) > MOST_BYTES:
        raise UsageError(
            f"{place}: {file!r} has over {MOST_BYTES >> 20} MB; is it a list of terms?"
        )
    return data
