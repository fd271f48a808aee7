"""`lorajob lm`: the text of a language, which its jobs use beside their audio."""

import json
import sys
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import open_client

if TYPE_CHECKING:
    from lorajob.tasks.language_texts import LanguageText


class TextGroup(click.Group):
    """`lorajob lm hi FILE` is `lorajob lm set hi FILE`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if len(args) > 1 and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["set", *args]
        return super().resolve_command(ctx, args)


@click.group(
    cls=TextGroup,
    epilog="""\b
Examples:
  lorajob lm hi news.txt.gz books.txt
  lorajob lm hi 'hf:OWNER/NAME?config=hi&split=train&column=text'
  lorajob lm list
""",
)
def lm() -> None:
    """Set, list or remove the text of a language.

    `lorajob lm LANG FILE` sets it. Jobs of the language that are submitted from then on use it as
    `lorajob submit --text` would: a model of its n-grams chooses among the hypotheses of the
    decoder, if that helps on clips of the training. --text takes its place; --set
    evaluate.language_text=false leaves it out.
    """


@lm.command("set")
@click.argument("lang")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, as those of the list.")
def set_text(lang: str, files: tuple[str, ...], as_json: bool) -> None:
    """Make the lines of FILEs the text of LANG, in place of an earlier text.

    A FILE has a sentence a line, in UTF-8, plain or packed with gzip. It is a path, a url, or
    hf:OWNER/NAME?config=...&column=text. Lines without words are left out.
    """
    made = open_client().texts.set(lang, files)
    if as_json:
        _print_json(made.model_dump())
    else:
        click.echo(f"{made.language}: {_lines(made)}, {made.characters:,} characters")


@lm.command("list")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a list of JSON objects: language, lines, characters, bytes, sha256, at, damaged.",
)
def list_texts(as_json: bool) -> None:
    """List the languages that have a text."""
    found = open_client().texts.list()
    if as_json:
        _print_json([it.model_dump() for it in found])
        return
    if not found:
        click.echo("lorajob: no language has a text; `lorajob lm LANG FILE` sets one", err=True)
        return
    from lorajob.cli.format import console, plain_table

    table = plain_table("LANGUAGE", "LINES", "CHARACTERS")
    for column in table.columns[1:]:
        column.justify = "right"
    for it in found:
        counts = ("damaged", "") if it.damaged else (f"{it.lines:,}", f"{it.characters:,}")
        table.add_row(it.language, *counts)
    console(sys.stdout).print(table)
    for it in found:
        if it.damaged:
            click.echo(f"lorajob: {it.damaged}", err=True)


@lm.command("remove")
@click.argument("lang")
def remove_text(lang: str) -> None:
    """Remove the text of LANG. Jobs that were submitted keep their copies."""
    click.echo(f"{open_client().texts.remove(lang)}: removed")


def _lines(made: "LanguageText") -> str:
    return f"{made.lines:,} line{'' if made.lines == 1 else 's'}"


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
